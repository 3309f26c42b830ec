"""All categories by name; each file declares its own and is listed here."""

from ..category import Category
from . import furniture

CATEGORIES: dict[str, Category] = {
    **furniture.CATEGORIES,
}
