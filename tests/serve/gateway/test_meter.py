"""Answers that pass as they are: the tokens that are read of them."""

from __future__ import annotations

from raylm.serve.gateway.meter import Meter

PLAIN = (
    b'{"choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}}],'
    b'"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3},"x":null}'
)


def test_usage_is_read_from_whole_answers_in_any_pieces():
    for size in (1, 7, 1000):
        meter = Meter()
        for at in range(0, len(PLAIN), size):
            meter.see(PLAIN[at : at + size], False)
        assert meter.tokens == (12, 3)


def test_responses_count_input_and_output():
    meter = Meter()
    meter.see(
        b'event: response.completed\ndata: {"response":{"usage":'
        b'{"input_tokens":4,"input_tokens_details":{"cached_tokens":0},"output_tokens":6}}}\n\n',
        True,
    )
    assert meter.tokens == (4, 6)


def test_who_leaves_before_the_usage_came_is_charged_a_token_for_each_event():
    meter = Meter()
    meter.see(b'event: message_start\ndata: {"message":{"usage":{"input_tokens":4,"output_tokens":0}}}\n\n', True)
    for _ in range(3):
        meter.see(b'event: content_block_delta\ndata: {"delta":{"text":"a delta"}}\n\n', True)
    assert meter.tokens == (4, 3)


def test_what_vllm_tells_behind_the_usage_of_a_whole_answer_hides_it_from_nobody():
    meter = Meter()
    meter.see(PLAIN[:-9] + b',"prompt_logprobs":null,"prompt_token_ids":[' + b"12345," * 20_000 + b"7]}", False)
    assert meter.tokens == (12, 3)
