"""The form of a plain float model: whatever no other form recognises."""

from fxmap.forms import stages
from fxmap.forms.form import Form

FLOAT = Form("float", lambda found: stages.FLOAT)
