"""The one thread that owns the model: many threads ask, a step that fails fails its own rows, files leave room."""

from __future__ import annotations

import threading
import time

import pytest

from parsit.parse.engine import ModelEngine
from parsit.serve.batcher import Batcher, StoppedError
from parsit.types import ImageRef, InputError, Sampling, Turn
from serve_support import HANG_S, noise


@pytest.fixture
def batcher(model):
    batcher = Batcher(ModelEngine(model.model, model.processor, batch_size=4))
    yield batcher
    batcher.stop()


def conversation(seed):
    return (Turn("user", (ImageRef(noise(seed, 30 + seed, 40)), f"Read {seed}.")),)


def wait_until_idle(batcher):
    deadline = time.monotonic() + HANG_S
    while batcher.load() != (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_threads_get_the_answers_to_their_own_questions(batcher, model):
    expected = [model.generate([conversation(seed)], max_new_tokens=8)[0].text for seed in range(9)]
    found: dict[int, str] = {}

    def ask(seed):
        [answer] = batcher.generate([conversation(seed)], max_new_tokens=8)
        found[seed] = answer.text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert [found[seed] for seed in range(9)] == expected
    assert batcher.load() == (0, 0)


def test_a_batch_of_a_file_is_answered_in_its_order(batcher, model):
    conversations = [conversation(seed) for seed in range(7)]
    told = []
    answers = batcher.generate(conversations, max_new_tokens=5, on_delta=lambda place, delta: told.append(place))
    alone = model.generate(conversations, max_new_tokens=5)
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    assert set(told) == set(range(7))


def test_who_asks_one_question_does_not_wait_for_a_long_file(batcher):
    """Three of four places are the most that a file's pages take."""
    warm, done = Sampling(temperature=1.0), threading.Event()
    pages = [conversation(seed) for seed in range(8)]
    is_wanted = threading.Event()
    is_wanted.set()

    def read():
        with pytest.raises(StoppedError):
            batcher.generate(pages, max_new_tokens=900, sampling=warm, is_wanted=is_wanted.is_set)
        done.set()

    threading.Thread(target=read).start()
    deadline = time.monotonic() + HANG_S
    while batcher.load()[0] < 3:
        assert time.monotonic() < deadline
    answered = threading.Event()
    batcher.submit(conversation(9), max_new_tokens=3, on_done=lambda result: answered.set())
    assert answered.wait(HANG_S)
    assert batcher.load()[1] > 0  # pages still wait
    is_wanted.clear()
    assert done.wait(HANG_S)
    wait_until_idle(batcher)


def test_what_cannot_be_asked_is_an_error_of_whoever_asks(batcher):
    with pytest.raises(InputError, match="the model's context has"):
        batcher.generate([(Turn("user", ("word " * 2000,)),)], max_new_tokens=5)
    broken = (Turn("user", (ImageRef(b"no image"), "Read.")),)
    with pytest.raises(InputError):
        batcher.generate([conversation(1), broken], max_new_tokens=5)
    wait_until_idle(batcher)


def test_a_step_that_fails_fails_its_rows_and_the_next_ones_are_answered(batcher, model):
    good = model.generate([conversation(2)], max_new_tokens=4)[0].text

    def explode(delta):
        raise MemoryError("no room for keys and values")

    failed = []
    arrived = threading.Event()
    ticket = {"on_delta": explode, "on_done": lambda result: (failed.append(result), arrived.set())}
    waiting: list = []
    answered = threading.Semaphore(0)
    with batcher._wake:  # all arrive together: the first explodes as it begins, the others wait
        batcher.submit(conversation(1), max_new_tokens=9, **ticket)
        for _ in range(5):
            batcher.submit(
                conversation(2), max_new_tokens=4, on_done=lambda result: (waiting.append(result), answered.release())
            )
    assert arrived.wait(HANG_S)
    assert isinstance(failed[0], MemoryError)
    for _ in range(5):
        assert answered.acquire(timeout=HANG_S)
    assert [result.text for result in waiting if not isinstance(result, Exception)].count(good) >= 1
    assert batcher.generate([conversation(2)], max_new_tokens=4)[0].text == good


def test_nothing_is_taken_once_it_has_stopped(model):
    batcher = Batcher(ModelEngine(model.model, model.processor, batch_size=2))
    ended = []
    first = {"sampling": Sampling(temperature=1.0), "on_done": ended.append}
    batcher.submit(conversation(1), max_new_tokens=900, **first)
    batcher.stop()
    assert [type(one) for one in ended] == [StoppedError]
    with pytest.raises(StoppedError, match="the server ends"):
        batcher.generate([conversation(1)], max_new_tokens=1)
    batcher.stop()  # twice does no harm
