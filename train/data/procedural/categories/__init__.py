"""All categories by name; each file declares its own and is listed here."""

from ..category import Category
from . import furniture, nature, tools

CATEGORIES: dict[str, Category] = {
    **furniture.CATEGORIES,
    **nature.CATEGORIES,
    **tools.CATEGORIES,
}
