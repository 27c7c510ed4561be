"""Makes the probes that come with SentiTrace: the embedded model's, on the built-in tweets.

To train one takes minutes, and it would be the same on every machine. So they lie in
`assets/probes/` as JSON, with their report and provenance, and are found as if they had been kept
(`core.probes.library.kept_probes`). Whoever changes how a probe is trained, judged or written, or
what the
embedded model is, makes them again: `python -m core.probes.defaults`, after `make setup`.
"""

from .library import DEFAULTS
from .training import train_probe

FEATURES = ("logit_pair", "hidden")
DATA = "vader-tweets"


def main() -> None:
    """Train them, with every layer's accuracy and all controls."""
    from ..data.datasets import load_dataset
    from ..models.loading import load_model
    from ..models.registry import EMBEDDED
    from .controls import with_controls

    model, twin = load_model(EMBEDDED), load_model(EMBEDDED, untrained=True)
    tweets = load_dataset(DATA)
    DEFAULTS.mkdir(parents=True, exist_ok=True)
    for features in FEATURES:
        probe = train_probe(model, tweets, features=features, dataset=DATA)
        probe = with_controls(probe, model, tweets, twin=twin)
        probe.save(DEFAULTS / f"{EMBEDDED}-{features}.json")


if __name__ == "__main__":
    main()
