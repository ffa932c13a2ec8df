"""Sounds: how bands of pitches differ in loudness, from their first moments to their end."""

import io
import wave

import numpy as np
import numpy.typing as npt

from siamese_search import EncoderProtocol

Array = npt.NDArray[np.float32]
RATE, WINDOW, STEP, BANDS = 16_000, 512, 160, 40
PARTS = [3, 8, 20, 50, 120]  # where they begin, in hundredths of a second, ever longer
MEL = 700 * (10 ** np.linspace(0, np.log10(1 + RATE / 1400), BANDS + 2) - 1)
PITCH = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
RISING, FALLING = (PITCH - MEL[:-2]) / np.diff(MEL)[:-1], (MEL[2:] - PITCH) / np.diff(MEL)[1:]
FILTERS = np.clip(np.minimum(RISING, FALLING), 0, None)


class Sounds(EncoderProtocol):
    name, fingerprint, suffixes = "sounds", "log-mel 1", (".wav",)
    dimension = 6 * (BANDS - 1) + 5 * BANDS + BANDS

    def decode(self, data: bytes) -> Array:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, count = file.getparams()[:4]
            samples = np.frombuffer(file.readframes(min(count, 10 * rate)), np.uint8)
        if width == 1 or len(samples) != width * channels * min(count, 10 * rate) or not count:
            raise ValueError(f"{count} samples of {8 * width} bits, or cut short")
        wide = np.pad(samples.reshape(-1, width), ((0, 0), (4 - width, 0))).view("<i4")
        sound = wide.reshape(-1, channels).mean(axis=1)
        sound = np.interp(np.arange(0, len(sound), rate / RATE), np.arange(len(sound)), sound)
        sound = np.pad(sound, (0, WINDOW))
        frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STEP]
        power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2 @ FILTERS
        if not power.any():
            raise ValueError("it is silent")
        bands: Array = np.log(power / power.max() + 1e-5).astype(np.float32)
        return bands

    def embed(self, arrays: list[Array]) -> Array:
        return np.stack([self.summary(bands) for bands in arrays])

    def summary(self, bands: Array) -> Array:
        short = max(0, PARTS[-1] + 1 - len(bands))  # what is missing is silence
        bands = np.pad(bands, ((0, short), (0, 0)), constant_values=bands.min())
        parts = np.stack([part.mean(axis=0) for part in np.split(bands, PARTS)])
        varies = bands.std(axis=0)
        by_pitch, by_time = np.diff(parts, axis=1).ravel(), 0.3 * np.diff(parts, axis=0).ravel()
        vector: Array = np.concatenate([by_pitch, by_time, varies - varies.mean()])
        vector /= np.linalg.norm(vector)
        return vector

    def show(self, data: bytes) -> npt.NDArray[np.uint8]:
        bands = self.decode(data)[: PARTS[-1]]  # time to the right, pitch upwards, loud is black
        grey: npt.NDArray[np.uint8] = (255 * bands / bands.min()).clip(0, 255).astype(np.uint8)
        return grey.T[::-1].repeat(3, axis=0)
