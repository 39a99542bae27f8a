from prune_realloc.core.taken import Fact, plain_taken, taken_from, taken_lines

TAKEN = {
    "weights": Fact("net.pth: model", "the file"),
    "architecture": Fact("deit", "the file's name; vit has mean 0.5", guessed=True),
    "heads": Fact(3, "the file"),
    "mean": Fact([0.5, 0.4, 0.3], "--mean"),
    "left out": Fact(["2 hidden (.a, .b)", "1 unreadable (c)"], "the files"),
}


def test_what_one_source_tells_stands_together_and_a_guess_is_called_one():
    assert taken_lines(TAKEN) == [
        "took weights net.pth: model, heads 3 (the file)",
        "took architecture deit (a guess from the file's name; vit has mean 0.5)",
        "took mean 0.5/0.4/0.3 (--mean)",
        "took left out 2 hidden (.a, .b), 1 unreadable (c) (the files)",
    ]


def test_of_a_second_network_it_says_which():
    assert taken_lines({"heads": Fact(3, "the file")}, "the teacher") == ["took of the teacher: heads 3 (the file)"]


def test_facts_become_plain_values_and_facts_again():
    assert taken_from(plain_taken(TAKEN)) == TAKEN
    assert plain_taken(TAKEN)["heads"] == {"value": 3, "origin": "the file", "guessed": False}
