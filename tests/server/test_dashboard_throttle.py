from concurrent.futures import ThreadPoolExecutor

from server.dashboard.throttle import Throttle

FREE = {"name ada": 3, "address 10.0.0.1": 6}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_after_its_free_attempts_each_further_one_waits_twice_as_long():
    clock = Clock()
    throttle, waits = Throttle(clock=clock), []
    for _ in range(3):
        assert throttle.attempt(FREE) == 0
    for _ in range(7):
        waits.append(throttle.attempt(FREE))
        clock.now += waits[-1]
        assert throttle.attempt(FREE) == 0
    assert waits == [2, 4, 8, 16, 32, 60, 60]  # and never longer: nobody is locked out for good


def test_who_is_told_to_wait_is_not_counted():
    clock = Clock()
    throttle = Throttle(clock=clock)
    for _ in range(3):
        throttle.attempt(FREE)
    assert [throttle.attempt(FREE) for _ in range(50)] == [2] * 50


def test_an_address_is_slowed_over_all_the_names_that_it_tries():
    throttle = Throttle(clock=Clock())
    waits = [throttle.attempt({f"name {at}": 3, "address 10.0.0.1": 6}) for at in range(7)]
    assert waits == [0] * 6 + [2]
    assert throttle.attempt({"name new": 3, "address 10.0.0.2": 6}) == 0


def test_success_lets_the_name_start_anew_and_does_not_clean_the_address():
    throttle = Throttle(clock=Clock())
    for at in range(5):
        throttle.attempt({f"name {at}": 3, "address 10.0.0.1": 6})
    throttle.attempt(FREE)
    throttle.succeeded(*FREE)
    assert throttle.attempt(FREE) == 0
    assert throttle.attempt({"name other": 3, "address 10.0.0.1": 6}) == 2


def test_a_quiet_quarter_of_an_hour_forgets():
    clock = Clock()
    throttle = Throttle(clock=clock)
    for _ in range(3):
        throttle.attempt(FREE)
    clock.now += 901
    assert [throttle.attempt(FREE) for _ in range(3)] == [0, 0, 0]


def test_many_at_once_get_no_more_free_attempts_than_one_after_the_other():
    throttle = Throttle(clock=Clock())
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: throttle.attempt({"name ada": 5}), range(200)))
    assert waits.count(0) == 5


def test_memory_is_bounded_whatever_names_are_tried():
    clock = Clock()
    throttle = Throttle(clock=clock, most=50)
    for at in range(500):
        clock.now += 0.001
        throttle.attempt({f"name {at}": 3})
    assert len(throttle._tries) == 50
