"""URL lists: domains with those below them, URLs in several spellings, words; what has no URL stays."""

import gzip
import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.prepare.filters.url_list import UrlList


def reasons(card, urls, column="url"):
    metas = [None if url is None else json.dumps({column: url, "other": "http://bad.com"}) for url in urls]
    return list(card.judge(pa.table({"meta": pa.array(metas, pa.large_string())})).reasons)


def test_domains_and_those_below():
    card = UrlList(domains=["bad.com", "www.Worse.org", "10.0.0.1"])
    blocked = [
        "http://bad.com",
        "https://a.b.BAD.com:8080/x?y#z",
        "worse.org/page",
        "//bad.com",
        "http://u:p@bad.com./",
        "http://10.0.0.1/",
    ]
    assert reasons(card, blocked) == ["blocked_domain"] * len(blocked)
    assert (
        reasons(card, ["http://notbad.com", "http://bad.com.org", "http://x.org/bad.com", "http://x.org/?u=bad.com", "com", ""])
        == [""] * 6
    )


def test_urls_in_several_spellings():
    card = UrlList(urls=["http://x.org/Page?a=1"])
    same = ["https://www.x.org/Page?a=1", "x.org/Page?a=1#part", "http://X.ORG:80/Page?a=1", "http://x.org/Page?a=1/"]
    assert reasons(card, same) == ["blocked_url"] * len(same)
    assert reasons(card, ["http://x.org/page?a=1", "http://x.org/Page", "http://a.x.org/Page?a=1"]) == [""] * 3


def test_words():
    card = UrlList(words=["Casino"])
    assert reasons(card, ["http://x.org/best-CASINO_games", "http://casino.x.org"]) == ["blocked_word_in_url"] * 2
    assert reasons(card, ["http://x.org/casinos"]) == [""]


@pytest.mark.parametrize("packed", [False, True])
def test_files(tmp_path, packed):
    path = tmp_path / "list"
    text = b"# blocked\n0.0.0.0 ads.com\nbad.com\r\nx.org/page\n\n*.wild.net # all\n"
    path.write_bytes(gzip.compress(text) if packed else text)
    urls = ["http://t.ads.com", "http://bad.com/a", "http://x.org/page/", "http://x.org", "http://a.wild.net"]
    wanted = ["blocked_domain", "blocked_domain", "blocked_url", "", "blocked_domain"]
    assert reasons(UrlList(path=str(path)), urls) == reasons(UrlList(path=[str(path)]), urls) == wanted


def test_a_list_in_a_bucket():
    import fsspec

    with fsspec.filesystem("memory").open("/lists/blocked.txt", "wb") as file:
        file.write(b"bad.com\n")
    assert reasons(UrlList(path="memory://lists/blocked.txt"), ["http://bad.com"]) == ["blocked_domain"]


def test_documents_without_a_url_stay():
    card = UrlList(domains=["bad.com"])
    assert reasons(card, [None, 5, "", None]) == [""] * 4
    assert reasons(card, ["http://bad.com"], column="address") == [""]
    assert reasons(UrlList(domains=["bad.com"], column="address"), ["http://bad.com"], column="address") == ["blocked_domain"]
    with pytest.raises(ValidationError, match="needs `path`"):
        UrlList()


def test_a_relative_path_is_placed(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("bad.com\n")
    monkeypatch.chdir(tmp_path)
    card = UrlList(path="list.txt").placed(None)
    monkeypatch.chdir("/")
    assert reasons(card, ["http://bad.com"]) == ["blocked_domain"]


def test_hosts_are_one_however_they_are_written():
    same = [
        "http://b\u00fccher.example/x",
        "http://xn--bcher-kva.example/x",
        "HTTPS://u:p@WWW.B\u00dcCHER.EXAMPLE.:443/x",
        "http://sub.b\u00fccher\u3002example",
        "//b%C3%BCcher.example",
        "bu\u0308cher.example",
        " http://b\u00fcc\nher.example",
    ]
    for name in ("b\u00fccher.example", "xn--bcher-kva.example"):
        assert reasons(UrlList(domains=[name]), same) == ["blocked_domain"] * len(same)
    assert reasons(UrlList(domains=["xn--bcher-kva.example"]), ["http://bucher.example", "http://xn--.example", ""]) == [""] * 3
    assert reasons(UrlList(domains=["[2606:2800::1]"]), ["http://[2606:2800::1]:8080/x"]) == ["blocked_domain"]
    assert reasons(UrlList(urls=["http://b\u00fccher.example:8080/x"]), ["xn--bcher-kva.example:8080/x"]) == ["blocked_url"]


def test_urls_inside_objects_and_none_at_all():
    metas = [
        '{"metadata.url":"http://bad.com"}',
        '{"meta":"{\\"url\\": \\"http://bad.com\\"}"}',
        '{"url":"http://bad.com"}',
        None,
        '{"a":1}',
    ]
    table = pa.table({"meta": pa.array(metas, pa.large_string())})
    card = UrlList(domains=["bad.com"])
    assert list(card.judge(table).reasons) == ["blocked_domain"] * 3 + [""] * 2
    assert card.counts(table) == {"without_url": 2}
    assert list(UrlList(domains=["bad.com"], column="metadata.url").judge(table).reasons)[:1] == ["blocked_domain"]
    assert UrlList(domains=["bad.com"], column="meta.url").counts(table) == {"without_url": 3}
