"""Hosts as they are compared."""

from raylm.prepare.hosts import one_host


def test_hosts_have_one_normal_form():
    assert {one_host(host) for host in ("www.A.org", "a.org.", "u@a.org:80", "A.ORG:443", "a.org:")} == {"a.org"}
    assert one_host("a.org:8080") == "a.org:8080" and one_host("[::1]:80") == "[::1]" and one_host("") == ""
    assert one_host("xn--e1afmkfd.xn--p1ai") == one_host("\u041f\u0420\u0418\u041c\u0415\u0420.\u0440\u0444")
    # no Punycode
    assert one_host("xn--\u00fc.org") == "xn--\u00fc.org" and one_host("xn--999999999.org") == "xn--999999999.org"
