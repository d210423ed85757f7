"""Advice: the ways out that errors and reports name, in arguments of Python, as options of the command line.

The library names the arguments of its functions. Somebody who typed a command has options instead; an argument that has
none is said to be Python's.

>>> print(as_options('Pass on_mismatch="keep" to keep its own values, or strict=False, or relu6="clamp"'))
Pass --keep to keep its own values, or --no-strict, or relu6="clamp" (in Python)
"""

import re

# The first that matches is taken, so that calls stand before their arguments.
_OPTIONS: tuple[tuple[str, str], ...] = (
    (r"load with fxmap\.transfer\(src, dst, calibration=batches\)", "fxmap convert with --calibration FILE"),
    (r"(fxmap\.transfer\(src, dst, )?calibration=batches\)?", "--calibration FILE (torch.save of a list of tensors)"),
    (r"fxmap\.transfer\(src, dst\)", "fxmap.transfer(src, dst) in Python"),
    (r"fxmap\.verify\(src, dst, mapping\)", "fxmap verify SRC DST MAPPING.json"),
    (r"fxmap\.auto_map\(src, dst\)", "fxmap map SRC DST"),
    (r"fxmap\.KeyMapping\((dict\(mapping\) \| \{key: source_key\})\)", r"KeyMapping(\1) in Python"),
    (r"calibration=[\"'](distilled|keep)[\"']", r"--calibration \1"),
    (r"on_mismatch=[\"']keep[\"']", "--keep"),
    (r"verify=[\"']warn[\"'] to write it all the same, with a warning, or verify=False to write it without one",
     "--unproven to write it all the same"),
    (r"verify=[\"']warn[\"']", "--unproven"),
    (r"verify=False; ", ""),
    (r"strict=False", "--no-strict"),
    (r"absorb_eps=True", "--absorb-eps"),
    (r"overwrite=True \(--force\)", "--force"),
    (r"weights=[\"']([^\"']*)[\"']", r"--weights \1"),
    (r"into=[\"']([^\"']*)[\"']", r"--into \1"),
    (r"into= ", "--into "),
    (r"example_inputs=\(x,\)", "--inputs SHAPE"),
    (r"\(src=, calibration=\)", "(--src, --calibration)"),
    (r"\(src=\)", "(--src)"),
    (r"pass src=,", "pass --src,"),
    (r"leave src out", "leave --src out"),
    (r"\ballow_code=True", "--allow-code"),
    (r"\b(relu6=[\"']\w+[\"']|lora_alpha=\)?|dst_inputs=|assign=True)", r"\1 (in Python)"),
)  # fmt: skip


def as_options(text: str) -> str:
    """Return a message with the options of the command line in the place of Python's arguments."""
    for pattern, option in _OPTIONS:
        text = re.sub(pattern, option, text)
    return text
