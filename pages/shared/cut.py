"""The threshold as a person sets it: one for all, one per layer, or the same share of every matrix; as a sparsity or a norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import streamlit as st

from prune_core.blocks import Layout
from prune_core.masks import (
    BlockMask,
    Norms,
    by_scope,
    mask_at,
    sparsity_of,
    thresholds_for,
    zero_share,
)
from prune_core.runs import Run

SCOPES = {"matrix": "each matrix", "layer": "each layer", "global": "whole encoder"}


@dataclass(frozen=True)
class Cut:
    """Thresholds by scope key."""

    scope: str  # one of SCOPES
    thresholds: Mapping[str, float]

    def mask(self, norms: Norms, layout: Layout) -> BlockMask:
        """What these thresholds keep of `norms`."""
        return mask_at(norms, layout, self.thresholds, self.scope)

    @property
    def one(self) -> float | None:
        """The threshold, where there is only one."""
        return self.thresholds["all"] if self.scope == "global" else None


def choose(run: Run, norms: Norms, high: float) -> Cut:
    """Draw the controls and give back what they say. `high`: the highest threshold on the sliders."""
    usual = run.config.scope if run.config.scope in SCOPES else "global"
    scope = st.segmented_control("One threshold for", list(SCOPES), default=usual, format_func=SCOPES.get, required=True,
                                 key="scope", bind="query-params",
                                 help="Each matrix: the same share of every matrix is cut. Each layer: a slider per layer. "
                                      "Whole encoder: one norm decides for all.")
    start = round(200 * sparsity_of(run.config.compressions[0])) / 2
    if scope == "matrix":
        return _per_matrix(run.layout, norms, start)
    unit = st.segmented_control("Set it as", ["sparsity", "threshold"], default="sparsity", required=True, key="unit",
                                bind="query-params",
                                help="A sparsity cuts that share of the weights, lowest norms first. A threshold cuts every block "
                                     "whose norm is at or below it.")
    if scope == "global":
        return _global(run.layout, norms, unit, start, high)
    return _per_layer(run.layout, norms, unit, st.session_state.get("last sparsity", start), high)


def _per_matrix(layout: Layout, norms: Norms, start: float) -> Cut:
    share = _share("Sparsity", start, "sparsity", bind="query-params")
    st.session_state["last sparsity"] = share
    thresholds = thresholds_for(norms, layout, share / 100, "matrix")
    zeros = f"; training has already brought {zero_share(norms, layout):.1%} to zero" if 0.0 in thresholds.values() and share else ""
    st.caption(f"= thresholds from {min(thresholds.values()):.3g} to {max(thresholds.values()):.3g}, one for each matrix{zeros}")
    return Cut("matrix", thresholds)


def _global(layout: Layout, norms: Norms, unit: str, start: float, high: float) -> Cut:
    if unit == "sparsity":
        share = _share("Sparsity", start, "sparsity", bind="query-params")
        st.session_state["last sparsity"] = share
        thresholds = thresholds_for(norms, layout, share / 100)
        zeros = f": training has already brought {zero_share(norms, layout):.1%} to zero" if thresholds["all"] == 0 and share else ""
        st.caption(f"= threshold {thresholds['all']:.4g} on the block norm{zeros}")
        return Cut("global", thresholds)
    share = st.session_state.get("last sparsity", start)
    value = _norm("Threshold", thresholds_for(norms, layout, share / 100)["all"], high, "threshold", bind="query-params")
    st.caption(f"= sparsity {mask_at(norms, layout, value).sparsity:.1%}")
    return Cut("global", {"all": value})


def _per_layer(layout: Layout, norms: Norms, unit: str, start: float, high: float) -> Cut:
    thresholds = {}
    for key, matrices in by_scope(layout, "layer").items():
        part = replace(layout, matrices=tuple(matrices))
        if unit == "sparsity":
            share = _share(key.capitalize(), start, f"sparsity of {key}")
            thresholds |= thresholds_for(norms, part, share / 100, "layer")
            st.caption(f"= threshold {thresholds[key]:.4g}")
        else:
            at = thresholds_for(norms, part, start / 100, "layer")[key]
            thresholds[key] = _norm(key.capitalize(), at, high, f"threshold of {key}")
            st.caption(f"= sparsity {mask_at(norms, part, {key: thresholds[key]}, 'layer').sparsity:.1%}")
    return Cut("layer", thresholds)


def _share(label: str, start: float, key: str, **more) -> float:
    """A slider of percent."""
    return st.slider(label, 0.0, 99.0, start, 0.5, format="%.1f%%", key=key, **more)


def _norm(label: str, start: float, high: float, key: str, **more) -> float:
    """A slider of norms, 200 steps; a start beyond its end is moved there."""
    step = float(f"{high / 200:.1g}")
    top = step * round(high / step)
    st.session_state.setdefault(key, min(top, step * round(start / step)))
    return st.slider(label, 0.0, top, step=step, format="%.3g", key=key, **more)
