"""The Method page: the experiment, its limits, and whom to cite."""

import streamlit as st

from core import session

THE_EXPERIMENT = r"""
#### The question

A causal trace (Meng et al. 2022) asks which states inside a language model carry a piece of
information. SentiTrace asks it about the sentiment of a tweet.

#### What is read

The model reads the tweet followed by *" I am feeling"*. Its probabilities of the next word being
*" good"* or *" bad"* go into a probe, a logistic regression trained on labelled tweets. The probe's
log-odds of "positive" are the proxy $s$ for the sentiment that the model has understood.

#### Three runs

1. **Clean.** The prompt as it is gives $s_\text{clean}$.
2. **Corrupted.** Gaussian noise, 3 standard deviations wide, on the input embeddings of the tweet
   gives $s_*$.
3. **Restored.** The corrupted run with one site put back to its clean state, and everything after
   it computed again, gives $s_*^{(l,\,t)}$.

The total effect, and the indirect effect of the site at layer $l$ and token $t$, are means over
noise samples that are the same for every site:

$$
\text{TE} = s_\text{clean} - s_*
\qquad
\text{IE}(l, t) = s_*^{(l,\,t)} - s_*
$$

A site is the **hidden state** after a layer at one token, or what the **MLP** or the **attention**
of a window of layers adds there. A window is needed because a single layer's contribution is easily
made up for by its neighbours; the paper's covers 10 of 48 layers, and the default keeps that share.
"""

ITS_LIMITS = """
#### What a trace does not show

- **No total effect, no trace.** Where the corruption does not change the proxy, colours are noise.
- **Some cells are what they are by construction.** They are hatched: before the first corrupted
  token nothing differs, and the last token's state after the last layer is the whole answer.
- **Noise may break more than the sentiment.** Another corruption can give another picture (Zhang
  & Nanda 2024).
- **A site that restores the sentiment need not be where an edit works best** (Hase et al. 2023).
- **The probe is not the model.** It is right on some five of six tweets, and a probe can find what
  the model does not use (Hewitt & Liang 2019). A randomly initialised twin of the model is the
  control.
"""

REFERENCES = """
#### References

Hase, Bansal, Kim, Ghandeharioun (2023). Does localization inform editing? *NeurIPS*.
[arXiv:2301.04213](https://arxiv.org/abs/2301.04213)

Hewitt, Liang (2019). Designing and interpreting probes with control tasks. *EMNLP*.
[arXiv:1909.03368](https://arxiv.org/abs/1909.03368)

Hutto, Gilbert (2014). VADER: a parsimonious rule-based model for sentiment analysis of social media
text. *ICWSM*.

Meng, Bau, Andonian, Belinkov (2022). Locating and editing factual associations in GPT. *NeurIPS*.
[arXiv:2202.05262](https://arxiv.org/abs/2202.05262)

Tigges, Hollinsworth, Geiger, Nanda (2023). Linear representations of sentiment in large language
models. [arXiv:2310.15154](https://arxiv.org/abs/2310.15154)

Zhang, Nanda (2024). Towards best practices of activation patching in language models: metrics and
methods. *ICLR*. [arXiv:2309.16042](https://arxiv.org/abs/2309.16042)
"""

session.heading("Method", "What a trace measures, what it does not, and whom to cite.")
with st.container(width=760):
    st.markdown(THE_EXPERIMENT)
    st.markdown(ITS_LIMITS)
    st.markdown(REFERENCES)
