"""All categories by name; each file declares its own and is listed here."""

from ..category import Category
from . import animals, characters, containers, food, furniture, household, kitchen, nature, tools

CATEGORIES: dict[str, Category] = {
    **furniture.CATEGORIES,
    **household.CATEGORIES,
    **kitchen.CATEGORIES,
    **nature.CATEGORIES,
    **tools.CATEGORIES,
    **containers.CATEGORIES,
    **characters.CATEGORIES,
    **animals.CATEGORIES,
    **food.CATEGORIES,
}
