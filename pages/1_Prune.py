"""Prune: choose what to prune, start it as its own process, watch, cancel and resume it."""

from __future__ import annotations

import os

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.prune import sweeps
from pages.prune.data_choice import hub_lacks, keep_upload, known_folder
from pages.prune.estimate import estimate
from pages.prune.live_run import watch
from pages.shared import loaders, processes, widgets
from pages.shared.widgets import SHOWING
from prune_core import InputError
from prune_core.cutting.masks import SCOPES
from prune_core.methods import rankings, table
from prune_core.methods.table import METHODS, QUANTIZERS, USUAL, MethodRow
from prune_core.runs import shelf
from prune_core.runs.config import PENALTIES, PRESETS, PruneConfig, preset
from prune_core.tasks import table_files
from prune_core.tasks.glue import HUB_DATA, NOT_GLUE, TASKS
from prune_core.tasks.table_files import SUFFIXES

VIEWS = ("One run", "Sweeps")
BLOCKS = ("64x1", "32x1", "16x1", "1x64", "16x16", "allx1", "1xall")
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
BITS = ("", "8", "4", "3", "2", "ternary", "binary", "clusters-4")
PATTERNS = ("", "2:4", "1:4", "1:2", "4:8")
PRESET_WORDS = {"quick": "to see reweighting at work, not to judge it",
                "standard": "by the method that scored best (the surgeon), at most an hour of training on two cores",
                "full": "as long as the task wants, by the surgeon too"}


def main() -> None:
    widgets.page("Prune")
    st.title("Prune an encoder", anchor=False)
    if st.segmented_control("View", VIEWS, default=VIEWS[0], required=True, key="view", bind="query-params",
                            label_visibility="collapsed") == VIEWS[1]:
        sweeps.view()
        return
    name = watched()
    if loaders.read_only():
        st.info(SHOWING, icon=":material/lock:")
    else:
        with st.expander("New run", expanded=name is None, icon=":material/add:"):
            new_run()
    if name is None and not loaders.read_only():
        st.info("Nothing is running. Choose above what to prune and press **Start**; the run then shows here, live.")
    elif name is not None:
        watch(name)


def watched() -> str | None:
    """The run to show: the URL's, else the newest that runs."""
    if name := st.query_params.get("run"):
        return name
    return next((one.name for one in loaders.listed() if one.status == "running"), None)


def new_run() -> None:
    """The settings of a new run, its estimate, and the button that starts it."""
    left, right = st.container(key="halves").columns([3, 2], gap="large")
    try:
        with left:
            config, words = settings()
        with right:
            start(config, words)
    except Nothing as error:
        right.info(str(error))
    except InputError as error:
        right.error(widgets.plain(str(error)), icon=":material/error:")


# long: every setting has its field
def settings() -> tuple[PruneConfig, DeltaGenerator]:
    """What the person chose, and the place for what the preset means and how long it takes. Raises InputError."""
    one, two = st.columns(2)
    model = one.selectbox("Model", loaders.models(), accept_new_options=True,
                          help="minilm is embedded and needs no network. Or type a hub name such as bert-base-uncased, "
                               "or a folder.")
    folder, known = known_folder()
    data = two.selectbox("Data", [*filter(None, [folder]), HUB_DATA, "practice"], accept_new_options=True,
                         help="The hub's GLUE, a local folder in the same layout (type its path), or the synthetic "
                              "practice set.")
    if folder and data == folder:
        two.caption(widgets.plain(f"Your GLUE folder, {known}."))
    data, columns, label, regression, wrong = data or "", (), "", False, None
    one, two = st.columns(2)
    if table_files.is_own(data) or st.toggle("Your own file", key="own file",
                                             help="CSV, TSV or parquet: one or two columns of text, and a label."):
        try:
            data, columns, label, regression = own_data(data)
        except InputError as error:
            wrong = error  # told once all settings stand there
    task = one.selectbox("Task", list(TASKS), index=list(TASKS).index("sst2"),
                         disabled=data == "practice" or bool(wrong) or table_files.is_own(data))
    block = two.selectbox("Block shape", BLOCKS, accept_new_options=True,
                          help="Rows x columns of one group of weights: 64x1 are columns in strips of 64 rows; allx1 "
                               "whole columns.")
    compressions = st.multiselect("Compression of the encoder", ["1.5", "2", "3", "5", "10"], default=["2"],
                                  accept_new_options=True, help="Dense / kept weights. One penalty stage serves all; "
                                                                "each gets its own retraining.")
    chosen = st.segmented_control("Preset", list(PRESETS), default="quick", required=True,
                                  help="  \n".join(f"{name}: {words}." for name, words in PRESET_WORDS.items()))
    words = st.empty()
    words.caption(f"{chosen}: {PRESET_WORDS[chosen]}.")
    with st.expander("More settings"):
        more = how(chosen)
        more |= few_bits(METHODS[more["method"]]) | reading((model or "").strip())
        device()
    if wrong:
        raise wrong
    if data == "practice":
        st.warning(f"The {NOT_GLUE}.", icon=":material/science:")
    return preset(chosen, model=(model or "").strip(), task=task, data=data.strip(), columns=columns, label=label,
                  regression=regression, block=(block or "").strip(), compressions=tuple(map(number, compressions)),
                  **more), words


def how(chosen: str) -> dict[str, object]:
    """The method, what is its own, and the seed; a preset names the usual ones."""
    best = PRESETS[chosen].get("method", PruneConfig.method)
    names = list(METHODS)
    method = METHODS[st.selectbox("Method", names, names.index(best), key=f"method, usually {best}",
                                  format_func=lambda name: f"{name}: {METHODS[name].words}", help=methods_help())]
    penalty = st.segmented_control("Penalty", PENALTIES, disabled="penalty" not in method.settings, default="proximal",
                                   required=True, help="proximal: soft thresholding after each optimizer step; "
                                                       "in-loss: added to the loss.")
    known = rankings.in_training()
    ranking = st.selectbox("Rank blocks by", known, known.index(PruneConfig.ranking), disabled=method.closed_form,
                           help=rankings.explained(known))
    usual = PruneConfig(method=method.name, ranking=ranking).scope
    scope = st.segmented_control("One threshold per", SCOPES, default=usual, required=True,
                                 key=f"scope, usually {usual}")
    spare = st.toggle("Penalise only the blocks to be cut", True,
                      disabled=penalty != "proximal" or "spare" not in method.settings,
                      help="Off: all blocks are penalised, as in the paper; then the kept ones shrink too.")
    reweighted = st.toggle("Reweighted", True, disabled="reweighted" not in method.settings,
                           help="Off: gamma stays 1, plain group Lasso.")
    distill = st.slider("Distilled from the dense model", 0.0, 1.0, PruneConfig.distill, 0.05,
                        help="Share of the loss that is the distance to the dense model's outputs, under the penalty "
                             "and in retraining; 0: none.")
    seed = st.number_input("Seed", min_value=0, max_value=2**31, value=0, help="A seed fixes the result.")
    return {"method": method.name, "penalty": penalty, "scope": scope, "spare": spare, "reweighted": reweighted,
            "ranking": ranking, "distill": distill, "seed": int(seed)}


def few_bits(method: MethodRow) -> dict[str, object]:
    """In which number formats, and with which pattern, the weights are retrained."""
    usual = method.formats or {}
    one, two = st.columns(2)
    bits = one.selectbox("Bits of a weight", BITS, BITS.index(usual.get("bits", "")), accept_new_options=True,
                         key=f"bits, usually {usual.get('bits', '')}", format_func=lambda bits: bits or "32",
                         help="In retraining, weights are rounded to so many bits, so that they get used to it. Or one "
                              "for each layer, type or matrix: layer:8,8,4,4,8,8.")
    pattern = two.selectbox("Pattern", PATTERNS, PATTERNS.index(usual.get("pattern", "")), accept_new_options=True,
                            key=f"pattern, usually {usual.get('pattern', '')}", format_func=lambda n: n or "none",
                            help="2:4: of every 4 weights beside each other in a row at most 2 stay. It saves bytes; "
                                 "processors are no faster for it.")
    quantizer = st.selectbox("Onto the levels by", list(QUANTIZERS), key="quantizer", disabled=not bits,
                             format_func=lambda name: f"{name}: {QUANTIZERS[name].words}",
                             help="How weights come onto the few values that they may have.")
    one, two = st.columns(2)
    activations = one.toggle("Activations in 8 bits", key="activations", help="What goes into the pruned matrices is "
                             "rounded too, so that int8 arithmetic can execute them.")
    embeddings = two.toggle("Word embeddings in 8 bits", key="embeddings",
                            help="About half of the bytes of a small model.")
    return {"bits": (bits or "").strip(), "pattern": (pattern or "").strip(),
            "quantizer": quantizer if bits else USUAL, "activation_bits": 8 if activations else None,
            "embedding_bits": 8 if embeddings else None}


def reading(model: str) -> dict[str, object]:
    """How a checkpoint that is not the embedded one is to be read."""
    if model in ("", "minilm"):
        return {}
    revision = None if os.path.isdir(os.path.expanduser(model)) else st.text_input(
        "Revision", placeholder="main", help="Of a hub name: a branch, a tag or a commit.").strip() or None
    unknown = st.toggle("Go on with unknown words", help="Off: a tokenizer that does not know over a fifth of the "
                                                         "task's words is refused.")
    return {"revision": revision, "allow_unknown": unknown}


def methods_help() -> str:
    """A line for each method, and how those in closed form are special."""
    lines = [f"{name}: {row.words}." for name, row in METHODS.items()]
    closed = "take no steps to choose: they cut at once, repair what is kept, and put all training into what follows."
    return "  \n".join([*lines, f"{' and '.join(table.at_once())} {closed}"])


def device() -> None:
    """Where runs, and what else this app starts, compute. The choice is kept for the other pages."""
    own = os.environ.get("PRUNESCOPE_DEVICE") or "auto"
    known = [own, *(one for one in DEVICES if one != own)]
    said = st.session_state.get("device said") or own
    chosen = st.selectbox("Device", [*known, *([said] if said not in known else [])], accept_new_options=True,
                          index=known.index(said) if said in known else len(known),
                          help="Where to train and to score: auto takes a GPU where there is one, cuda:1 the second.")
    st.session_state["device said"] = (chosen or "").strip() if chosen != own else ""


class Nothing(InputError):
    """Nothing is wrong, but something is still to be chosen."""


def own_data(typed: str) -> tuple[str, tuple[str, ...], str, bool]:
    """(path, text columns, label column, whether labels are a score) of the person's own file, typed or uploaded.

    It is checked. Raises InputError.
    """
    path = typed if table_files.is_own(typed) else ""
    if not path:
        given = st.file_uploader("A table with text and label", [suffix[1:] for suffix in SUFFIXES],
                                 max_upload_size=200)
        if given is None:
            raise Nothing("Choose your file: CSV, TSV or parquet, with one or two columns of text and one of labels")
        path = str(keep_upload(given.name, given.getvalue()))
    names = table_files.names(path)
    one, two = st.columns(2)
    columns = tuple(one.multiselect("Text", names, max_selections=2, placeholder="guessed",
                                    help="One column, or two for pairs of sentences."))
    label = two.selectbox("Label", names, index=None, placeholder="guessed") or ""
    regression = st.toggle("Labels are a score", key="regression", help="On: numbers to come near to, whole ones too "
                           "(--regression). Off: whole numbers are classes.")
    rows = loaders.own_table(path, columns, label, regression)
    more = " …" if len(rows.classes) > 6 else ""
    kinds = f"{len(rows.classes)} classes: {', '.join(rows.classes[:6])}{more}" if rows.classes else "numbers"
    st.caption(widgets.plain(f"{rows.rows:,} rows, text {' and '.join(rows.columns)}, {kinds}. Every fifth row, "
                             "drawn with the seed, is for scoring."))
    if rows.note:
        st.caption(widgets.plain(f"Note: {rows.note}."))
    return path, columns, label, regression


def number(text: str) -> float:
    """'2' or '2x' -> 2.0. Raises InputError."""
    try:
        return float(text.strip().removesuffix("x"))
    except ValueError:
        raise InputError(f"compression {text!r} is not a number; needed: 1 or more, for example 2") from None


def start(config: PruneConfig, words: DeltaGenerator) -> None:
    """The estimate, the name, and the start of the run. `words`: where the preset is explained, with the same time."""
    found = estimate(config, loaders.listed())
    about = f"about {widgets.duration(found.seconds)}" if found.seconds else "known after a minute"
    words.caption(f"{config.preset}: {about}; {PRESET_WORDS[config.preset]}.")
    with st.container(border=True, gap="small"):
        st.metric("From Start to the end", about)
        st.caption(widgets.plain(found.source))
        if found.work:
            st.caption("Training steps: " + ", ".join(f"{phase} {n:,}" for phase, n in found.work.plan.phases))
    if found.outlook:
        st.warning(widgets.plain(found.outlook), icon=":material/warning:")
    own, practice = table_files.is_own(config.data), config.data == "practice"
    task = "practice" if practice else table_files.task_name(config.data) if own else config.task
    free = shelf.free_name(f"{task}-{config.block}", loaders.runs_dir())
    name = st.text_input("Run name", placeholder=free, help="Letters, digits, - and _.").strip() or free
    lacks = hub_lacks(config)
    if st.button("Start", type="primary", icon=":material/play_arrow:", width="stretch"):  # the hub may be back by now
        begin(config, name, found.seconds)
    if lacks:
        st.warning(widgets.plain(f"{config.task} cannot be had from {HUB_DATA}: {lacks}. Choose a folder with GLUE as "
                                 f"Data, or train on the {NOT_GLUE}."), icon=":material/cloud_off:")
        if st.button("Train on the practice set instead", icon=":material/science:", width="stretch"):
            begin(config, name, None, "--practice")


def begin(config: PruneConfig, name: str, seconds: float | None, *more: str) -> None:
    """Start the run, expected to take so long, and show it. Raises InputError."""
    try:
        processes.start(config, name, loaders.runs_dir(), *widgets.device_option(), *more)
    except OSError as error:
        raise InputError(f"the runs folder cannot be written: {error.strerror or error}") from None
    st.session_state["expected"] = (name, seconds)
    st.query_params["run"] = name
    st.rerun()


main()
