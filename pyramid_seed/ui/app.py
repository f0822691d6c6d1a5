"""The page: its components, and the handler that each one calls. `studio` does the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr

from ..first_image import in_its_own_size
from ..media.images import open_image
from ..presets import SETTINGS, Preset, Settings
from ..provenance.manifest import geometry_of
from . import html
from .jobs import Job, Outcome, State
from .limits import length_label, lengths
from .seeds import parse_seed, random_seed_text, seed_for_run
from .studio import ClipRequest, Studio
from .work import image_beside

_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text()
THEME = gr.themes.Default(
    primary_hue="indigo",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
    text_size="sm",
    spacing_size="sm",
).set(  # text needs a contrast of 4.5, and white on the usual indigo has 4.46, on the usual red 3.8
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_cancel_background_fill="#b91c1c",
    button_cancel_background_fill_hover="#991b1b",
    button_cancel_background_fill_dark="#b91c1c",
    button_cancel_background_fill_hover_dark="#991b1b",
    button_cancel_text_color="white",
    button_cancel_text_color_dark="white",
    body_text_color_subdued="#63636e",
    body_text_color_subdued_dark="#a1a1aa",
)
DICE = str(_HERE / "dice.svg")
_SAMPLING = {
    "Steps": {"num_inference_steps": "first unit", "video_num_inference_steps": "later units"},
    "Guidance": {"guidance_scale": "first unit", "video_guidance_scale": "later units"},
}
POLL_SECONDS = 1.0
_FOCUS_ON_KEEP = """() => {
    const seek = tries => {
        const button = document.querySelector('#keep');
        if (button?.checkVisibility()) button.focus();
        else if (tries) setTimeout(seek, 50, tries - 1);
    };
    seek(40);
}"""

Changes = dict[Any, Any]


def shows_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show the library's errors on the page, in their own words, where they stay until the next request."""
    known = (ValueError, TypeError, OSError)

    @wraps(handler)
    def at_once(page: Page, *values: Any) -> Changes:
        try:
            return {page.problem: "", **handler(page, *values)}
        except known as error:
            return {page.problem: html.problem(error)}

    @wraps(handler)
    def in_steps(page: Page, *values: Any) -> Iterator[Changes]:
        yield {page.problem: ""}
        try:
            yield from handler(page, *values)
        except known as error:
            yield {page.problem: html.problem(error)}

    return in_steps if isgeneratorfunction(handler) else at_once


def build_page(studio: Studio) -> gr.Blocks:
    """The page of a studio, ready to mount."""
    with gr.Blocks(title="pyramid-seed", analytics_enabled=False, fill_width=True) as page:
        Page(studio, page)
    return page.queue(default_concurrency_limit=None, api_open=False)


class Page:
    """Components as attributes, handlers as methods; a handler returns the components it changes."""

    def __init__(self, studio: Studio, blocks: gr.Blocks) -> None:
        self.studio = studio
        self.jobs: dict[str, Job] = {}
        self._lay_out()
        self._wire(blocks)

    def _lay_out(self) -> None:
        self.job_id = gr.State("")
        self.clip = gr.State("")
        self.seen = gr.State(("", -1))
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>pyramid-seed</h1>")
            self.queue_line = gr.HTML(
                html.queue_line(self.studio.queue), js_on_load="element.setAttribute('aria-live', 'polite')"
            )
        self.problem = gr.HTML(elem_id="problem")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                self._lay_out_form()
            with gr.Column(scale=6, min_width=320):
                self._lay_out_clip()
        gr.HTML(html.gallery_title(self.studio.folder.name), elem_id="gallery-title")
        self.gallery = gr.HTML(elem_id="gallery", js_on_load=(_HERE / "gallery.js").read_text())
        self.timer = gr.Timer(POLL_SECONDS)

    def _lay_out_form(self) -> None:
        names = list(self.studio.presets)
        first = self.studio.presets[names[0]]
        self.prompt = gr.Textbox(
            label="Prompt", lines=2, placeholder="a red circle moves to the right", elem_id="prompt"
        )
        negative = gr.Textbox(label="Negative prompt", value=first.negative_prompt, elem_id="negative")
        with gr.Row():
            self.preset = gr.Dropdown(names, value=names[0], label="Preset", elem_id="preset", min_width=140)
            self.length = gr.Dropdown(
                self._length_choices(names[0]),
                value=first.num_frames,
                label="Length",
                elem_id="length",
                min_width=180,
            )
        with gr.Row():
            self.height = gr.Number(first.height, label="Height", elem_id="height", min_width=90)
            self.width = gr.Number(first.width, label="Width", elem_id="width", min_width=90)
        with gr.Accordion("Steps and guidance", open=False, elem_id="sampling"):
            texts = {}
            for kind, fields in _SAMPLING.items():
                with gr.Row():
                    for name, which in fields.items():
                        texts[name] = gr.Textbox(
                            setting_text(getattr(first, name)),
                            label=f"{kind}, {which}",
                            info=SETTINGS[name].help,
                            elem_id=name,
                            min_width=140,
                        )
        self.texts = {"negative_prompt": negative, **texts}
        with gr.Row(equal_height=True):
            self.seed = gr.Textbox(
                label="Seed", buttons=["copy"], elem_id="root-seed", scale=5, min_width=180
            )
            self.lock = gr.Checkbox(label="Lock", elem_id="lock", container=False, scale=0, min_width=64)
            self.dice = gr.Button("", icon=DICE, elem_id="dice", scale=0, min_width=44)
        self.loras = gr.CheckboxGroup(
            list(self.studio.loras), label="LoRA", elem_id="loras", visible=bool(self.studio.loras)
        )
        with gr.Accordion("Image to begin with", open=False, elem_id="first-frame"):
            self.image = gr.Image(
                type="filepath",
                format="png",  # a chosen clip's image is to come back as it was
                image_mode=None,
                sources=["upload", "clipboard"],
                label="An image; the clip takes its size",
                height=180,
            )
        with gr.Row():
            self.run = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", interactive=False, min_width=120)

    def _lay_out_clip(self) -> None:
        self.stage = gr.HTML(html.empty_stage(), elem_id="stage", js_on_load=(_HERE / "stage.js").read_text())
        self.progress = gr.HTML(elem_id="progress")
        self.facts = gr.HTML(elem_id="facts", js_on_load=(_HERE / "copy.js").read_text())
        with gr.Column(visible=False, elem_id="actions") as self.actions:
            with gr.Row(equal_height=True):
                self.new_length = gr.Dropdown(
                    [], label="New length", elem_id="new-length", scale=3, min_width=160
                )
                self.from_frame = gr.Dropdown(
                    [], label="Frames kept", elem_id="from-frame", scale=2, min_width=100
                )
                self.branch_seed = gr.Textbox(
                    label="Branch seed", elem_id="branch-seed", scale=4, min_width=190
                )
                self.branch_dice = gr.Button("", icon=DICE, elem_id="branch-dice", scale=0, min_width=44)
            with gr.Row():
                self.verify = gr.Button("Verify", elem_id="verify", min_width=90, size="md")
                self.extend = gr.Button("Extend", elem_id="extend", min_width=90, size="md")
                self.branch = gr.Button("Branch", elem_id="branch", min_width=90, size="md")
                self.delete = gr.Button("Delete …", elem_id="delete", min_width=90, size="md")
        with gr.Column(visible=False, elem_id="doubt") as self.doubt:
            self.doubt_text = gr.HTML()
            with gr.Row():
                self.keep = gr.Button("Keep", elem_id="keep", min_width=90, size="md")
                self.erase = gr.Button("Delete", variant="stop", elem_id="erase", min_width=90, size="md")
        with gr.Accordion("Manifest", open=False, visible=False, elem_id="manifest") as self.manifest_box:
            self.manifest = gr.HTML()

    def _wire(self, blocks: gr.Blocks) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        quick: dict[str, Any] = {**quiet, "queue": False}
        of_clip: list[Any] = [self.problem, self.stage, self.progress, self.facts, self.actions, self.doubt]
        of_clip += [self.manifest_box, self.manifest, self.new_length, self.from_frame, self.branch_seed]
        of_clip += [self.gallery, self.clip]
        of_job = [*of_clip, self.job_id, self.run, self.stop, self.seed, self.queue_line]
        of_preset = [self.problem, self.length, self.height, self.width, *self.texts.values()]
        of_form = [*of_preset, self.prompt, self.preset, self.seed, self.lock, self.loras, self.image]
        form: list[Any] = [self.prompt, self.preset, self.length, self.height, self.width, self.seed]
        form += [self.lock, self.image, self.loras, self.clip, *self.texts.values()]
        self.run.click(self.on_run, form, of_job, **quiet)
        self.verify.click(self.on_verify, [self.clip], of_job, **quiet)
        self.extend.click(self.on_extend, [self.clip, self.new_length], of_job, **quiet)
        branch = [self.clip, self.new_length, self.from_frame, self.branch_seed]
        self.branch.click(self.on_branch, branch, of_job, **quiet)
        blocks.load(self.on_load, [self.clip], of_job, **quiet)
        self.stop.click(self.on_stop, [self.job_id], None, **quick)
        self.gallery.select(self.on_select, None, list({*of_clip, *of_form}), **quick)
        asked = self.delete.click(self.on_delete, [self.clip], [*of_clip, self.doubt_text], **quick)
        asked.then(None, js=_FOCUS_ON_KEEP)
        self.keep.click(lambda: gr.Column(visible=False), None, self.doubt, **quick)
        self.erase.click(self.on_erase, [self.clip], of_clip, **quick)
        # Only what a person does: choosing a clip also fills these.
        self.preset.input(self.on_preset, [self.preset, self.image], of_preset, **quick)
        gr.on(
            [self.image.upload, self.image.clear],
            self.on_image,
            [self.preset, self.image],
            [self.problem, self.height, self.width],
            **quick,
        )
        self.dice.click(lambda: (random_seed_text(), False), None, [self.seed, self.lock], **quick)
        self.seed.input(lambda: True, None, self.lock, **quick)
        self.branch_dice.click(random_seed_text, None, self.branch_seed, **quick)
        self.timer.tick(
            self.on_tick, [self.seen, self.clip], [self.queue_line, self.gallery, self.seen], **quick
        )

    @shows_errors
    def on_run(
        self,
        prompt: str,
        preset: str,
        num_frames: int | None,
        height: float | None,
        width: float | None,
        seed: str,
        locked: bool,
        image: str | None,
        loras: list[str],
        clip: str,
        *texts: str,
    ) -> Iterator[Changes]:
        """Run: submit the form as a job."""
        settings = Settings(
            num_frames=whole("num_frames", num_frames),
            height=whole("height", height),
            width=whole("width", width),
        )
        for name, text in zip(self.texts, texts, strict=True):
            settings[name] = setting_of(name, text)  # type: ignore[literal-required]
        request = ClipRequest(
            prompt=prompt,
            seed=seed_for_run(seed, locked),
            preset=preset,
            settings=settings,
            image=None if image is None else Path(image),
            loras=tuple(loras),
        )
        job = self.studio.make(request)
        yield {self.seed: str(request.seed)}
        yield from self._follow(job, clip)

    @shows_errors
    def on_verify(self, clip: str) -> Iterator[Changes]:
        """Verify the clip on the stage."""
        yield from self._follow(self.studio.verify(clip), clip)

    @shows_errors
    def on_extend(self, clip: str, num_frames: int | None) -> Iterator[Changes]:
        """Make the clip on the stage longer."""
        yield from self._follow(self.studio.extend(clip, whole("the new length", num_frames)), clip)

    @shows_errors
    def on_branch(
        self, clip: str, num_frames: int | None, from_frame: int | None, seed: str
    ) -> Iterator[Changes]:
        """Keep the beginning of the clip on the stage and continue it with another seed."""
        job = self.studio.extend(
            clip,
            whole("the new length", num_frames),
            branch_seed=parse_seed(seed),
            from_frame=whole("the frames to keep", from_frame),
        )
        yield from self._follow(job, clip)

    @shows_errors
    def on_delete(self, clip: str) -> Changes:
        """Ask whether to delete the clip on the stage, and say what that removes."""
        files = [path.name for path in self.studio.files(clip)]
        return {self.doubt: gr.Column(visible=True), self.doubt_text: html.doubt(files)}

    @shows_errors
    def on_erase(self, clip: str) -> Changes:
        """Delete the clip on the stage."""
        self.studio.delete(clip)
        return {
            self.clip: "",
            self.stage: html.empty_stage(),
            self.facts: html.outcome(Outcome(clip, f"Deleted {clip}")),
            self.actions: gr.Column(visible=False),
            self.doubt: gr.Column(visible=False),
            self.manifest_box: gr.Accordion(visible=False),
            self.gallery: html.cards(self.studio.clips(), ""),
        }

    @shows_errors
    def on_load(self, clip: str) -> Iterator[Changes]:
        """Fill a fresh page; it keeps following the running job."""
        yield {
            self.seed: random_seed_text(),
            self.branch_seed: random_seed_text(),
            self.gallery: html.cards(self.studio.clips(), clip),
            self.queue_line: html.queue_line(self.studio.queue),
        }
        if (job := self.studio.queue.running) is not None:
            yield from self._follow(job, clip)

    def on_stop(self, job_id: str) -> None:
        """Stop the job that this page watches."""
        if (job := self.jobs.get(job_id)) is not None:
            job.stop()

    @shows_errors
    def on_select(self, event: gr.EventData) -> Changes:
        """Show a clip from the gallery, and fill the form with its settings."""
        name = str(event.value)
        shown = self._show(name)
        preset, recipe = self.studio.preset_like(name), self.studio.recipe(name)
        if preset is None:
            missing = (
                f"no preset of this page has the clip's model, {recipe.settings.model}, so the form stays"
            )
            return shown | {
                self.problem: html.problem(f"{missing} as it is; start the page with one (--preset)")
            }
        image = image_beside(self.studio.folder / name)
        return shown | {
            **self._form_values(preset, recipe.settings),
            self.prompt: recipe.prompt,
            self.preset: preset,
            self.seed: str(recipe.seed),
            self.lock: True,
            self.loras: self.studio.loras_of(name),
            self.image: image,
        }

    @shows_errors
    def on_preset(self, name: str, image: str | None) -> Changes:
        """Fill the form with the preset's values; with an image, the size is the image's."""
        return self._form_values(name, self._sized(name, image))

    @shows_errors
    def on_image(self, preset: str, image: str | None) -> Changes:
        """Set the size in the form to the image's, or without an image to the preset's."""
        sized = self._sized(preset, image)
        return {self.height: sized.height, self.width: sized.width}

    def on_tick(self, seen: tuple[str, int], clip: str) -> Changes:
        """Show the current state of the queue, and the gallery if a job from any page has ended."""
        line, finished = html.queue_line(self.studio.queue), self.studio.queue.num_finished
        changes: Changes = {self.seen: (line, finished)}
        if line != seen[0]:
            changes[self.queue_line] = line
        if finished != seen[1]:
            changes[self.gallery] = html.cards(self.studio.clips(), clip)
        return changes

    def _follow(self, job: Job, clip: str) -> Iterator[Changes]:
        """Show a job until it ends, then its result; `clip` is the one on the stage before."""
        self.jobs[job.id] = job
        yield {
            self.job_id: job.id,
            self.run: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.facts: "",
            self.actions: gr.Column(visible=False),
            self.doubt: gr.Column(visible=False),
            self.manifest_box: gr.Accordion(visible=False),
        }
        images: tuple[str, ...] | None = None
        for view in job.views():
            if view.state.is_final:
                break
            changes: Changes = {self.progress: html.progress(view)}
            if view.images != images:
                images = view.images
                if images or not clip:  # a clip being verified stays on the stage
                    changes[self.stage] = html.live_stage(view)
            yield changes
        self.jobs.pop(job.id, None)
        yield {
            self.progress: "",
            self.job_id: "",
            self.run: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
            self.queue_line: html.queue_line(self.studio.queue),
        }
        yield self._ended(view.state, view.outcome, clip)
        if view.error is not None:
            yield {self.problem: html.problem(view.error)}

    def _ended(self, state: State, outcome: Outcome | None, clip: str) -> Changes:
        if outcome is None and state is State.STOPPED:
            outcome = Outcome(clip, "Stopped, nothing was kept", is_good=False)
        name = clip if outcome is None else outcome.clip
        if name:
            return self._show(name, outcome)
        return {self.stage: html.empty_stage(), self.facts: html.outcome(outcome)}

    def _show(self, name: str, outcome: Outcome | None = None) -> Changes:
        manifest = self.studio.manifest(name)
        num_frames, fps = manifest["settings"]["num_frames"], manifest["settings"]["fps"]
        geometry = geometry_of(manifest)
        _, *longer = lengths(geometry, self.studio.limits)
        following = geometry.num_frames(manifest["geometry"]["num_units"] + 1)
        return {
            self.clip: name,
            self.stage: html.clip_stage(name, num_frames),
            self.facts: html.facts(name, manifest, outcome),
            self.actions: gr.Column(visible=True),
            self.doubt: gr.Column(visible=False),
            self.manifest_box: gr.Accordion(visible=True),
            self.manifest: html.manifest_text(manifest),
            self.new_length: gr.Dropdown(
                [(length_label(frames, fps), frames) for frames in longer],
                value=following if following in longer else None,
            ),
            self.from_frame: gr.Dropdown(list(geometry.good_num_frames(num_frames)), value=num_frames),
            self.gallery: html.cards(self.studio.clips(), name),
        }

    def _form_values(self, name: str, settings: Preset) -> Changes:
        """The form's fields with these settings, for an offered preset."""
        choices = self._length_choices(name)
        offered = any(settings.num_frames == frames for _, frames in choices)
        return {
            self.length: gr.Dropdown(choices, value=settings.num_frames if offered else None),
            self.height: settings.height,
            self.width: settings.width,
            **{field: setting_text(getattr(settings, name)) for name, field in self.texts.items()},
        }

    def _sized(self, name: str, image: str | None) -> Preset:
        """An offered preset; with an image, in the image's size."""
        preset = self.studio.preset(name)
        return preset if image is None else in_its_own_size(open_image(Path(image)), preset)

    def _length_choices(self, preset: str) -> list[tuple[str, int]]:
        fps = self.studio.preset(preset).fps
        return [(length_label(frames, fps), frames) for frames in self.studio.lengths(preset)]


def whole(name: str, value: float | None) -> int:
    """A number from the form as an int; ValueError if it is not whole."""
    if value is None or value != int(value):
        raise ValueError(f"{name} must be a whole number, got {value}")
    return int(value)


def setting_text(value: object) -> str:
    """A setting as text for its field: "" for None, one number for equal ones."""
    if isinstance(value, tuple):
        return " ".join(map(str, value if len(set(value)) > 1 else value[:1]))
    return "" if value is None else str(value)


def setting_of(name: str, text: str) -> Any:
    """The setting in a field, unchecked: the reverse of `setting_text`."""
    field = SETTINGS[name]
    return None if field.default is None and not text.strip() else field.parse(text)
