"""All categories by name; each file declares its own and is listed here."""

from train.data.procedural.categories import (
    air_water,
    animals,
    buildings,
    characters,
    containers,
    electronics,
    food,
    furniture,
    games,
    household,
    kitchen,
    music,
    nature,
    road,
    sweets,
    tools,
)
from train.data.procedural.category import Category

CATEGORIES: dict[str, Category] = {
    **furniture.CATEGORIES,
    **household.CATEGORIES,
    **kitchen.CATEGORIES,
    **electronics.CATEGORIES,
    **buildings.CATEGORIES,
    **road.CATEGORIES,
    **air_water.CATEGORIES,
    **nature.CATEGORIES,
    **tools.CATEGORIES,
    **containers.CATEGORIES,
    **characters.CATEGORIES,
    **animals.CATEGORIES,
    **food.CATEGORIES,
    **music.CATEGORIES,
    **games.CATEGORIES,
    **sweets.CATEGORIES,
}
