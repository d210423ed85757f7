"""Exports: the other forms that a mapping has: generalised over layers, inverted, and as other libraries want it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self

from torch import Tensor

from fxmap.expressions.base import Expression
from fxmap.mapping.adapter import StateDictAdapter, adapter_of
from fxmap.mapping.findings import Findings
from fxmap.mapping.given import given_state
from fxmap.mapping.inverse import invert
from fxmap.mapping.patterns import Pattern, patterns
from fxmap.mapping.planner import load_planner
from fxmap.mapping.proof import Proof
from fxmap.mapping.to_transformers import to_transformers
from fxmap.mapping.verdict import refuse_refuted, warn_of_refuted


class Exports(Mapping[str, Expression], ABC):
    """A mapping from destination key to expression that can be written in other forms."""

    knowledge: Findings
    proof: Proof

    @abstractmethod
    def _alike(self, expressions: Mapping[str, Expression], knowledge: Findings) -> Self:
        """Return another mapping of this kind."""

    def patterns(self) -> tuple[Pattern, ...]:
        """Return the expressions generalised over the numbers in keys, so that the layers of a stack are one line.

        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> print(*KeyMapping({f"layers.{i}.q.weight": f"h.{i}.attn.wq" for i in range(12)}).patterns())
        h.{i}.attn.wq -> layers.{i}.q.weight, i = 0..11
        """
        return patterns(self)

    def inverse(self, like: Mapping[str, Any] | None = None) -> Self:
        """Return the mapping from destination to source, for the source keys that can be recovered.

        Renames, transposes, permutations, reshapes and stacks are turned round, joins are taken apart, and slices are joined
        where together they cover their tensor; each is tried on numbers that are all different. A folded batch norm or a
        quantized weight cannot be undone: map the other way with `auto_map(dst, src)`, which gives a neutral norm and
        dequantized weights. `knowledge.reasons` names each such key.

        Args:
            like: a state dict of the source, for the shapes of its tensors. A mapping of `auto_map` knows those it needs;
                one by hand does not.

        >>> import torch
        >>> from fxmap.expressions.base import Source
        >>> from fxmap.expressions.layout import Concat
        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> joined = KeyMapping({"qk": Concat((Source("q"), Source("k")))})
        >>> back = joined.inverse(like={"q": torch.zeros(4, 3), "k": torch.zeros(2, 3)})
        >>> print(back["q"], back["k"])
        qk[0:4] qk[4:6]
        """
        return self._alike(*invert(self, self.knowledge, self._shapes(like)))

    def _shapes(self, like: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
        given = {} if like is None else given_state(like, "like")
        return self.knowledge.src_shapes | {
            key: tuple(value.shape) for key, value in given.items() if isinstance(value, Tensor)
        }

    def to_transformers(self, like: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the rules by which transformers loads the source's checkpoints, and saves in their form again.

        They are `WeightRenaming` and `WeightConverter` of `transformers.core_model_loading`, general over layers. Handed to
        `transformers.conversion_mapping.register_checkpoint_conversion_mapping(model_type, rules)`, they are applied by
        `from_pretrained`, and their reverse by `save_pretrained`.

        Args:
            like: a state dict of the source, for the shapes of its tensors, as in `inverse`.

        Raises:
            MappingError: transformers is absent, or older than 5, or its operations cannot say how a key is made; the
                message names the keys.
        """
        warn_of_refuted(self.proof, "to_transformers")
        return to_transformers(self, self._shapes(like))

    def to_state_dict_adapter(self, like: Mapping[str, Any] | None = None) -> type[StateDictAdapter]:
        """Return an adapter class of torchtitan's protocol: `from_hf` applies the mapping, `to_hf` its inverse.

        The source is Hugging Face's checkpoint, the destination the model that is trained. `like` as in `inverse`.

        Raises:
            MappingError: a source key cannot be made back; the message names it.

        >>> import torch
        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> adapter = KeyMapping({"tok.weight": "model.embed_tokens.weight"}).to_state_dict_adapter()()
        >>> list(adapter.to_hf({"tok.weight": torch.zeros(2, 2)}))
        ['model.embed_tokens.weight']
        """
        warn_of_refuted(self.proof, "to_state_dict_adapter")
        back = self.inverse(like)
        return adapter_of(self, back, back.knowledge.reasons)

    def load_planner(self, verify: bool | Literal["warn"] = True) -> Any:
        """Return a planner with which torch.distributed.checkpoint loads a checkpoint of the source into the destination.

        `dcp.load(model.state_dict(), storage_reader=reader, planner=mapping.load_planner())` reads, from whatever storage
        the reader can read, the regions that the tensors of this rank need; these may be DTensors. Keys that the source does
        not make stay as they are. What was loaded before an error stays loaded, as it is with torch's own planner.

        Args:
            verify: as in `load_into`: refuse a mapping that a run has refuted, or write it with a warning, or without.

        Raises:
            ProofError: a run refuted the mapping.

        Raises, when it is used:
            MappingError: the checkpoint lacks a source key.
            LoadError: shapes or dtypes do not fit.

        >>> import tempfile, torch
        >>> import torch.distributed.checkpoint as dcp
        >>> from fxmap.mapping.key_mapping import KeyMapping
        >>> mapping, state = KeyMapping({"k": "qkv[2:4]"}), {"k": torch.zeros(2, 2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = dcp.save({"qkv": torch.arange(12.0).reshape(6, 2)}, checkpoint_id=folder, no_dist=True)
        ...     dcp.load(state, checkpoint_id=folder, planner=mapping.load_planner(), no_dist=True)
        >>> state["k"]
        tensor([[4., 5.],
                [6., 7.]])
        """
        refuse_refuted(self.proof, verify)
        return load_planner(self)
