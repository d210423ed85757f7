"""The list of all forms, in the order in which they are asked to recognise a model."""

from fxmap.forms.eager import EAGER
from fxmap.forms.form import Form
from fxmap.forms.fx_mode import FX_MODE
from fxmap.forms.plain import FLOAT
from fxmap.forms.pt2e import PT2E
from fxmap.forms.quanto import QUANTO
from fxmap.forms.reference import REFERENCE
from fxmap.forms.torchao import TORCHAO_QAT, TORCHAO_TENSORS

FORMS: tuple[Form, ...] = (QUANTO, PT2E, REFERENCE, TORCHAO_QAT, FX_MODE, EAGER, TORCHAO_TENSORS, FLOAT)
