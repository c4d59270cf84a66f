"""`cckt cache text`, `crops`, `images` and `all`: cache the features of a CLIP teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cckt.cache_builder.base.constants import BATCH, CROP, PRECISION, TABLE, TAU, TEMPLATES
from cckt.commands.console import TerminalProgress, show_reports
from cckt.commands.engines.choice import (
    ActorCpus,
    Actors,
    Address,
    Engine,
    ExactPart,
    PrintSbatch,
    caller,
    print_sbatch,
)
from cckt.commands.options import (
    DEVICE,
    JITTER,
    REUSE,
    TEACHER_HELP,
    Batch,
    ColumnOut,
    Crop,
    Data,
    Device,
    Fast,
    Flipped,
    Jitter,
    Json,
    Name,
    Of,
    Overwrite,
    Part,
    Precision,
    Processes,
    Reuse,
    ReuseFrom,
    Strict,
    Synonyms,
    Tau,
    Teacher,
    Templates,
    Workers,
    parse_part,
)


def text(
    data: Data,
    teacher: Annotated[str | None, typer.Option(help=f"{TEACHER_HELP} Optional with --import.")] = None,
    templates: Templates = TEMPLATES,
    synonyms: Synonyms = False,
    name: Name = "",
    import_file: Annotated[
        Path | None,
        typer.Option("--import", help="Use a table of embeddings from a .npy, .pt or .safetensors file."),
    ] = None,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    part: Part = None,
    overwrite: Overwrite = False,
    out: ColumnOut = None,
    json: Json = None,
) -> None:
    """Cache the text embedding of each concept."""
    from cckt.cache_builder.columns.text import cache_text

    report = cache_text(
        data,
        teacher,
        templates=templates,
        synonyms=synonyms,
        name=name,
        device=device,
        precision=precision,
        import_file=import_file,
        part=parse_part(part),
        overwrite=overwrite,
        out=out,
        progress=TerminalProgress(),
    )
    show_reports(json, report)


def crops(
    context: typer.Context,
    data: Data,
    teacher: Teacher,
    of: Of = TABLE,
    crop: Crop = CROP,
    flipped: Flipped = False,
    jitter: Jitter = JITTER,
    name: Name = "",
    fast: Fast = False,
    batch: Batch = BATCH,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    strict: Strict = False,
    part: Part = None,
    exact_part: ExactPart = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    print_script: PrintSbatch = False,
    overwrite: Overwrite = False,
    reuse: Reuse = REUSE,
    reuse_from: ReuseFrom = None,
    out: ColumnOut = None,
    json: Json = None,
) -> None:
    """Cache the image embedding of each annotated box, or of each proposal."""
    from cckt.cache_builder.base.constants import CHUNK_ROWS
    from cckt.cache_builder.columns.all_at_once import cache_photos
    from cckt.cache_builder.columns.crops import plain_name
    from cckt.cache_builder.columns.views import view_names

    run = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        print_sbatch(
            context,
            data,
            [(str(view), of, CHUNK_ROWS) for view in view_names(name, flipped, jitter, plain_name(of))],
            out,
        )
        return
    reports = run(
        cache_photos,
        data,
        teacher,
        name=name,
        kinds=("crops",),
        of=of,
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=parse_part(part, exact_part),
        overwrite=overwrite,
        reuse=reuse,
        reuse_from=reuse_from,
        out=out,
        progress=TerminalProgress(),
    )
    show_reports(json, *reports)


def images(
    context: typer.Context,
    data: Data,
    teacher: Teacher,
    name: Name = "",
    fast: Fast = False,
    batch: Batch = BATCH,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    strict: Strict = False,
    part: Part = None,
    exact_part: ExactPart = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    print_script: PrintSbatch = False,
    overwrite: Overwrite = False,
    reuse: Reuse = REUSE,
    reuse_from: ReuseFrom = None,
    out: ColumnOut = None,
    json: Json = None,
) -> None:
    """Cache the embedding of each whole image."""
    from cckt.cache_builder.base.constants import CHUNK_ROWS
    from cckt.cache_builder.columns.images import cache_images
    from cckt.cache_builder.store import ColumnName

    run = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        print_sbatch(context, data, [(str(ColumnName("images", name)), "images", CHUNK_ROWS)], out)
        return
    report = run(
        cache_images,
        data,
        teacher,
        name=name,
        fast=fast,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=parse_part(part, exact_part),
        overwrite=overwrite,
        reuse=reuse,
        reuse_from=reuse_from,
        out=out,
        progress=TerminalProgress(),
    )
    show_reports(json, report)


def all_columns(
    context: typer.Context,
    data: Data,
    teacher: Annotated[
        list[str], typer.Option(help=f"{TEACHER_HELP} Repeat it to cache several teachers in one pass.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="Label of the second teacher, then of the third; columns are named KIND-NAME."),
    ] = None,
    templates: Templates = TEMPLATES,
    synonyms: Synonyms = False,
    crop: Crop = CROP,
    flipped: Flipped = False,
    jitter: Jitter = JITTER,
    fast: Fast = False,
    tau: Tau = TAU,
    batch: Batch = BATCH,
    workers: Workers = None,
    processes: Processes = False,
    device: Device = DEVICE,
    precision: Precision = PRECISION,
    strict: Strict = False,
    part: Part = None,
    exact_part: ExactPart = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    print_script: PrintSbatch = False,
    overwrite: Overwrite = False,
    reuse: Reuse = REUSE,
    reuse_from: ReuseFrom = None,
    out: ColumnOut = None,
    json: Json = None,
) -> None:
    """Cache text, crops, images and CLIP priors; each image is decoded once."""
    from cckt.cache_builder.base.constants import CHUNK_ROWS
    from cckt.cache_builder.columns.all_at_once import cache_all
    from cckt.cache_builder.columns.teachers import label_teachers
    from cckt.cache_builder.columns.views import view_names
    from cckt.cache_builder.store import ColumnName

    run = caller(engine, address, actors, actor_cpus, part)
    if print_script:
        print_sbatch(
            context,
            data,
            [
                column
                for label in label_teachers(teacher, name or ())
                for column in [
                    *((str(view), "boxes", CHUNK_ROWS) for view in view_names(label, flipped, jitter)),
                    (str(ColumnName("images", label)), "images", CHUNK_ROWS),
                ]
            ],
            out,
        )
        return
    reports = run(
        cache_all,
        data,
        teacher,
        name=name or (),
        templates=templates,
        synonyms=synonyms,
        crop=crop,
        flipped=flipped,
        jitter=jitter,
        fast=fast,
        tau=tau,
        batch=batch,
        workers=workers,
        processes=processes,
        device=device,
        precision=precision,
        strict=strict,
        part=parse_part(part, exact_part),
        overwrite=overwrite,
        reuse=reuse,
        reuse_from=reuse_from,
        out=out,
        progress=TerminalProgress(),
    )
    show_reports(json, *reports)
