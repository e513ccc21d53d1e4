"""The row of MediaPipe's nets and a pitch tracker: int8 as `improve="auto"` leaves it, output by output."""

from __future__ import annotations

from functools import partial

from benchmarks.measuring import FILES, Figure, Options, cell, run_job, say

# The wheels that hold the files: both Apache-2.0.
MEDIAPIPE, _PITCH = "mediapipe==0.10.14", "basic-pitch==0.4.0"
# File in the wheel, kind of its input, what black is (-1 or 0 where white is 1).
NETS: dict[str, tuple[str, str, str, float]] = {
    "face detector": (MEDIAPIPE, "mediapipe/modules/face_detection/face_detection_short_range.tflite", "image", -1.0),
    "palm detector": (MEDIAPIPE, "mediapipe/modules/palm_detection/palm_detection_lite.tflite", "image", 0.0),
    "selfie mask": (MEDIAPIPE, "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite", "image", 0.0),
    "hand landmarks": (MEDIAPIPE, "mediapipe/modules/hand_landmark/hand_landmark_lite.tflite", "image", 0.0),
    "pose detector": (MEDIAPIPE, "mediapipe/modules/pose_detection/pose_detection.tflite", "image", -1.0),
    "pose landmarks": (MEDIAPIPE, "mediapipe/modules/pose_landmark/pose_landmark_full.tflite", "image", 0.0),
    "pitch tracker": (_PITCH, "basic_pitch/saved_models/icassp_2022/nmp.tflite", "sound", 0.0),
}
_LEAST_DB = 15.0


def media(options: Options) -> list[Figure]:
    """MediaPipe's nets and basic-pitch: SQNR per output of int8 with improve="auto", against plain dynamic."""
    folder = FILES / "media"
    folder.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for wheel in (MEDIAPIPE, _PITCH):
        files = [file for of, file, _, _ in NETS.values() if of == wheel]
        run_job("wheel_files", wheel=wheel, files=files, out=folder)
    for name, (_, file, kind, lowest) in NETS.items():
        say(name)
        path = folder / file.rpartition("/")[2]
        given = {"model": path, "kind": kind, "lowest": lowest, "calibration": 48, "unseen": 32}
        found = cell(f"media_{path.stem}", partial(run_job, "improved_media", **given))
        auto, dynamic, plain = (found[key] for key in ("auto", "dynamic", "int8"))
        sizes = f"{auto['bytes']:,} bytes (dynamic {dynamic['bytes']:,}), {auto['seconds']:.0f} s"
        for index, output in enumerate(found["outputs"]):
            level, usual = auto["sqnr_db"][index], dynamic["sqnr_db"][index]
            note = f"dynamic {usual:.1f}, plain int8 {plain['sqnr_db'][index]:.1f} dB; {sizes}"
            note += "; announced as noise" if any(f"'{output}'" in said for said in auto["noise"]) else ""
            bound = max(_LEAST_DB, usual)
            figures.append(Figure(f"{name}: output '{output}'", level, "dB", at_least=bound, note=note))
    return figures
