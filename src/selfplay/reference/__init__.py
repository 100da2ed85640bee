"""Generates the reference of all groups, choices and options: `selfplay reference`."""

from selfplay.reference.choices import choices as choices
from selfplay.reference.choices import options as options
from selfplay.reference.page import main as main
from selfplay.reference.page import reference as reference
