"""A model behind an endpoint: a small server that speaks the API, with answers, log-probabilities, failures and a crash."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raylm.core.artifact import Endpoint as EndpointArtifact
from raylm.core.artifact import Prompts
from raylm.core.errors import ConfigError, DataError, PlacementError
from raylm.core.storage import Folder
from raylm.evaluate.backends.endpoint import Endpoint, EndpointSpec, served
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examinations import Examinations
from raylm.evaluate.intervals import wilson
from raylm.evaluate.journal import Journal
from raylm.evaluate.lm import LM
from raylm.evaluate.stage import run
from raylm.inference.completions import BatchSampling
from tests.model.tiny import tiny_tokenizer
from tests.rows import make_rows
from tests.stages import context


class Handler(BaseHTTPRequestHandler):
    """Says the last word of what it is asked; a text with `busy` is refused once, one with `never` always, `long` is too long."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        told = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if body["model"] != "m":
            return self._send(404, {"error": {"message": "no such model"}})
        if "never" in told or ("busy" in told and told not in self.server.refused):
            self.server.refused.add(told)
            return self._send(503, {"error": {"message": "busy"}}, {"retry-after": "0"})
        if "long" in told:
            return self._send(400, {"error": {"message": "too long"}})
        num_read = len(told) + self.server.begins if body.get("echo") else 3
        usage = {"prompt_tokens": num_read, "completion_tokens": 2 * body.get("n", 1), "total_tokens": 5}
        if "messages" in body:
            word = told.split()[-1]
            choices = [
                {"index": at, "finish_reason": "stop", "message": {"role": "assistant", "content": f"{word} {at}"}}
                for at in range(body.get("n", 1))
            ]
            return self._send(
                200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
            )
        choice = {"index": 0, "finish_reason": "length", "text": "more"}
        if body.get("echo"):
            told = [*[1] * self.server.begins, *told]
            # the token i has log-probability -i; tokens with an even id are the likeliest ones
            logprobs = [None, *(-float(token) for token in told[1:]), -9.0]
            tops = [None, *({"x": -float(token) if token % 2 == 0 else 0.0} for token in told[1:]), {"x": 0.0}]
            names = [str(token) for token in [*told, 0]]
            choice["logprobs"] = {
                "tokens": names,
                "token_logprobs": logprobs,
                "top_logprobs": tops,
                "text_offset": [0] * len(names),
            }
        return self._send(
            200, {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        )

    def _send(self, status, body, headers=None):
        sent = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(sent)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.refused, made.begins = [], set(), 0
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def spec(server, **more):
    usual = {"name": "away", "url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "deadline_s": 5.0}
    return EndpointSpec(**usual | more)


def lm(server, journal=None, **more):
    made = Endpoint(spec(server, **more), "secret")
    return LM("", scorer=made, answerer=made, journal=journal)


def ask(text):
    return [{"role": "user", "content": text}]


def test_answers_to_messages_and_texts_with_key_and_sampling(server):
    found = lm(server).complete([ask("say class"), "a text"], BatchSampling(max_tokens=7, temperature=0.0, stop=["q"], top_k=5))
    assert [(one.text, one.finish, one.num_tokens) for one in found if one] == [("class 0", "stop", 2), ("more", "length", 2)]
    assert all(one.seconds > 0 for one in found if one)
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions", "/v1/completions"}
    _, key, body = server.asked[0]
    assert key == "Bearer secret"
    assert (body["max_tokens"], body["temperature"], body["stop"], body["top_k"]) == (7, 0.0, ["q"], 5)
    assert "min_p" not in body and "detokenize" not in body
    (several,) = lm(server).samples([ask("say class")], BatchSampling(), 3)
    assert [one.text for one in several or ()] == ["class 0", "class 1", "class 2"]
    assert [one.num_tokens for one in several or ()] == [2, 2, 2]


def test_an_endpoint_that_gives_one_answer_of_several_is_asked_for_the_others(server):
    """The server of this test, as some others, gives texts one answer whatever `n` says: a vote of one would be none."""
    (several,) = lm(server).samples(["a text"], BatchSampling(), 3)
    assert [one.text for one in several or ()] == ["more"] * 3
    bodies = [body for _, _, body in server.asked]
    assert [body["n"] for body in bodies] == [3, 2, 1]
    assert len({body["seed"] for body in bodies}) == 3


def test_what_fails_is_tried_again_counted_and_not_kept(server, tmp_path):
    held = Journal(Folder(tmp_path))
    questions = [ask(f"say {at}") for at in range(20)] + [ask("busy one"), ask("too long")]
    asked = lm(server, held)
    found = asked.complete(questions)
    assert [one is None for one in found] == [False] * 21 + [True]
    (note,) = asked.notes()
    assert note.startswith("without 1 of 22 texts that the endpoint refused (Error code: N") and "too long" in note
    before = len(server.asked)
    lm(server, Journal(Folder(tmp_path))).complete(questions)
    assert [body["messages"][0]["content"] for _, _, body in server.asked[before:]] == ["too long"]


def test_an_endpoint_that_is_down_is_an_error_and_what_was_answered_is_kept(server, tmp_path):
    lm(server, Journal(Folder(tmp_path))).complete([ask("say class")])
    server.shutdown()
    server.server_close()
    with pytest.raises(PlacementError, match="20 requests in a row were not answered"):
        lm(server, Journal(Folder(tmp_path)), deadline_s=0.3).complete([ask(f"say {at}") for at in range(40)])
    known = lm(server, Journal(Folder(tmp_path)), deadline_s=0.3).complete([ask("say class")])
    assert known[0] and known[0].text == "class 0"


def test_a_wrong_model_and_token_ids_without_a_tokenizer_are_refused(server):
    with pytest.raises(ConfigError, match="check `url` and `model` of endpoint 'away'"):
        lm(server, model="other").complete([ask("say class")])
    with pytest.raises(ConfigError, match="token ids are no prompt"):
        lm(server).complete([[1, 2, 3]])
    with pytest.raises(ConfigError, match="which tokens it drew"):
        lm(server).drawn([ask("say class")], 3)


def test_log_probabilities_by_echo(server, tmp_path):
    tokenizer = tiny_tokenizer(300)
    tokenizer.save_pretrained(tmp_path)
    asked = lm(server, logprobs=True, tokenizer=str(tmp_path), max_length=64)
    ((nats, greedy),) = asked.loglikelihood([("A class defines", " a type")])
    whole = tokenizer.encode("A class defines a type", add_special_tokens=False)
    counted = whole[len(tokenizer.encode("A class defines", add_special_tokens=False)) :]
    assert nats == -sum(counted)
    assert greedy == all(token % 2 == 0 for token in counted)
    assert asked.logprob_sums([[1, 10, 20]], [[0, 0, 1]]) == [-20.0]
    assert server.asked[0][2]["prompt"] == whole and server.asked[0][2]["echo"]
    # a server that begins each text with a token of its own: every number would be that of the token before
    server.begins = 1
    with pytest.raises(DataError, match="1 of 1 texts of which the endpoint read other tokens than it was sent"):
        asked.logprob_sums([[1, 10, 21]], [[0, 0, 1]])
    with pytest.raises(DataError, match="longer than the 64 tokens"):
        asked.logprob_sums([[5] * 65], [[1] * 65])


def evaluate(server, **more):
    table = spec(server).model_dump(exclude={"name"})
    task = {"kind": "answers", "rows": "prompts", "max_tokens": 4}
    return Evaluate.model_validate(
        {"stage": "evaluate", "models": ["away"], "endpoints": [{"name": "away", **table}], "tasks": [task]} | more
    )


def test_a_whole_task_against_an_endpoint_whatever_made_it(server, tmp_path, monkeypatch):
    """A named table, and the folder of a serve stage with a key in a file."""
    rows = [
        {
            "tokens": [1, at],
            "messages": json.dumps(ask(f"question {at} class" if at % 4 else f"question {at} module")),
            "ground_truth": "class",
        }
        for at in range(3, 43)
    ]
    make_rows(tmp_path, "prompts", Prompts, rows, held_out=len(rows))
    (tmp_path / "key").write_text("from a file\n")
    api = context(tmp_path, "api")
    url = spec(server).url
    api.commit(EndpointArtifact, facts={"url": url, "model_name": "m", "key_file": str(tmp_path / "key")})
    monkeypatch.setenv("MY_KEY", "of the environment")
    cfg = evaluate(server, models=["away", "api"])
    cfg = cfg.model_copy(update={"endpoints": [cfg.endpoints[0].model_copy(update={"key_env": "MY_KEY"})]})
    asked = Examinations(cfg, list(cfg.tasks), context(tmp_path, "report", cfg))
    asked.by_endpoints()
    assert asked.missing == {}
    assert asked.grades() == {"away": {"answers": 0.75}, "api": {"answers": 0.75}}
    assert {key for _, key, _ in server.asked} == {"Bearer of the environment", "Bearer from a file"}
    first, second = (asked.graded()[name]["answers"] for name in ("away", "api"))
    assert [one.id for one in first] == [one.id for one in second]
    assert first[0].output == "class 0" and first[0].asked.startswith("question 3 class")
    assert served(api.commit(EndpointArtifact, facts={"url": url, "model_name": "m"}), "api").spec.url == url


def test_one_report_of_endpoints_and_the_next_one_against_it(server, tmp_path, capsys):
    """No process of Ray's and no model here: the whole stage, its files, its gate, and the comparison with an earlier report."""
    rows = [
        {
            "tokens": [1, at],
            "messages": json.dumps(ask(f"question {at} {'class' if at % 4 else 'module'}")),
            "ground_truth": "class",
        }
        for at in range(3, 103)
    ]
    make_rows(tmp_path, "prompts", Prompts, rows, held_out=len(rows))
    first = evaluate(server, gate={"answers": {"at_least": 0.6, "confidence": 0.95}})
    made = run(first, context(tmp_path, "first", first))
    assert made.facts["passed"]
    told = json.loads(made.folder.read("report.json"))
    assert told["grades"] == {"away": {"answers": 0.75}}
    assert told["intervals"]["away"]["answers"] == pytest.approx(wilson(75, 100))
    graded = [json.loads(line) for line in made.folder.read(told["instances"]["away"]["answers"]).decode().splitlines()]
    assert len(graded) == 100 and sum(one["values"]["answers"] for one in graded) == 75
    assert {one["output"] for one in graded} == {"class 0", "module 0"}
    assert "the gate is passed: answers at least 0.6 (95% sure)" in told["notes"]
    assert not (tmp_path / "first" / "_work").exists()

    second = evaluate(server, against="first", gate={"answers": {"at_least": 0.7}})
    ctx = context(tmp_path, "second", second)
    made = run(second, ctx)
    assert made.facts["reasons"] == ["answers lies between 0.657 and 0.8245 with 95% confidence, at least 0.7 is asked"]
    (one,) = json.loads(made.folder.read("report.json"))["comparisons"]
    assert (one["first"], one["second"], one["num_pairs"], one["difference"]) == ("away of first before", "away", 100, 0.0)
    assert "0 of 1 differences of away are sure" in " ".join(capsys.readouterr().out.split())
    assert "away of first before" in made.folder.read("report.html").decode()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"tasks": [{"kind": "bits_per_byte", "rows": "tokens"}]},
            "task bits_per_byte asks for log-probabilities, and endpoint 'away' gives none",
        ),
        ({"tasks": [{"kind": "reward", "rows": "prompts", "model": "judge"}]}, "reads the tokens that were drawn"),
        ({"models": ["base"]}, "'away' is named by no entry of models"),
    ],
)
def test_what_an_endpoint_cannot_be_asked_is_refused(server, table, said):
    with pytest.raises(ValueError, match=said):
        evaluate(server, **table)


def test_log_probabilities_need_a_tokenizer(server):
    with pytest.raises(ValueError, match="logprobs = true needs `tokenizer`"):
        spec(server, logprobs=True)
