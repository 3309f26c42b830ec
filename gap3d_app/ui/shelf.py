"""The weights that the page offers: what each costs, and the one pipeline that is loaded at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gap3d_app.errors import InputError
from gap3d_app.estimate import STEPPED, Estimate
from gap3d_app.fast_flows import WORTH_COMPILING
from gap3d_app.settings import Settings, presets
from gap3d_app.sources.offers import Offer
from gap3d_app.ui.loading import Loader

if TYPE_CHECKING:
    from gap3d_app.pipeline import Gap3DPipeline


class Shelf:
    """Offers, their loaders and their estimates.

    Args:
        offers: the first one is loaded at once.
        load: makes the pipeline of an offer; called in a thread, again after a failure.
        device: "cuda" or "cpu", for the estimates.
        copied: whether networks are copied to the device in every run, for the estimates.
        compiled: whether a pipeline compiles what is worth it, as far as can be said before it is loaded.
    """

    def __init__(
        self, offers: list[Offer], load: Callable[[Offer], Gap3DPipeline], device: str = "cpu", copied: bool = False,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.offers = {offer.key: offer for offer in offers}
        self.first, self.load, self.compiled = offers[0].key, load, compiled
        self._estimates = {offer.key: Estimate(device, offer.sizes, copied) for offer in offers}
        self._lock = threading.Lock()
        self._loaders: dict[str, Loader] = {}
        self.loader(self.first).start()

    def offer(self, key: Any) -> Offer:
        """The offer of a key; the first for None.

        Raises:
            InputError: there is none.
        """
        if key is None:
            key = self.first
        if not isinstance(key, str) or key not in self.offers:
            known = ", ".join(self.offers)
            raise InputError(f"There are no weights {str(key)[:60]!r} here; choose one of {known}.")
        return self.offers[key]

    def loader(self, key: str) -> Loader:
        """The loader of an offer; the pipelines of the others are let go."""
        with self._lock:
            if key not in self._loaders:
                offer = self.offers[key]
                self._loaders = {key: Loader(lambda: self.load(offer))}
            return self._loaders[key]

    def seconds(
        self, key: str, given: Mapping[str, Any], words: bool, picture: bool, shape: bool
    ) -> dict[str, float]:
        """What a run would take, by stage, see `Estimate.seconds`.

        Raises:
            InputError: a setting that cannot be used.
        """
        offer = self.offer(key)
        route = route_of(offer, words and not picture)
        settings = Settings.validated(presets(offer.args, route), **given)
        return self._estimates[key].seconds(settings, words, shape, route)

    def compiles(self, key: str, words: bool, picture: bool, shape: bool) -> bool:
        """Whether such a run would compile networks first."""
        offer = self.offers[key]
        route = route_of(offer, words and not picture)
        stages = [stage for stage in STEPPED if not (stage == "grid" and (route or not words))]
        roles = {route + STEPPED[stage] for stage in stages if not (stage == "structure" and shape)}
        loader = self._loaders.get(key)  # another thread may put other weights in its place
        pipeline = None if loader is None else loader.pipeline
        if pipeline is not None:
            return pipeline.will_compile(roles)
        return self.compiled and any(offer.sizes.get(role, 0) >= WORTH_COMPILING for role in roles)

    def learn(self, key: str, settings: Settings, seconds: Mapping[str, float], words: bool, shape: bool) -> None:
        """A run has ended."""
        self._estimates[key].learn(settings, seconds, words, shape, route_of(self.offers[key], words))


def route_of(offer: Offer, words: bool) -> str:
    """Which flows a prompt takes, see `stages.Run`."""
    return "text_" if words and offer.words and not offer.grid else ""
