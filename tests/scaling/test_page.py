"""The report in a real browser: it opens without a network, its switches work, its numbers are fit.json's."""

import json

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.scaling.report import report as report_module
from mfa_train.scaling.report.report import write_report
from mfa_train.scaling.study.gather import gather
from tests.scaling.synthetic import VARIANTS, edit, write_ladder, write_scores

ANSWERS = ("loss", "difference", "difference_at_same_shape", "multiplier", "params", "tokens")

HOSTILE = "</script><img src=x onerror=document.title='owned'>&\u2028<b>$x$"


@pytest.fixture
def opened(chromium, report):
    chromium.get_log("performance")
    chromium.set_window_size(1200, 900)
    chromium.get((report / "index.html").as_uri())
    return chromium


def all_of(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def numbers(browser, table: str) -> list[float]:
    return [float(cell.get_attribute("data-value")) for cell in all_of(browser, f"#{table} td[data-value]")]


def test_it_renders_offline_without_errors_and_asks_for_nothing(opened):
    assert opened.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {
        message["params"]["request"]["url"] for message in asked if message["method"] == "Network.requestWillBeSent"
    }
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    assert len(all_of(opened, "figure > svg")) == 5
    assert len(all_of(opened, "#all-runs tbody tr")) == 81
    assert len(all_of(opened, "#curves svg path[stroke]")) == 81


def test_it_opens_with_the_answer_and_then_the_picture(opened, report):
    found = json.loads((report / "fit.json").read_text())
    told = [part.text for part in all_of(opened, "#answer p")]
    assert told == [sentence.replace("\u00a0", " ") for sentence in found["answer"]["sentences"]] and len(told) <= 3
    heights = [part.location["y"] for part in all_of(opened, "#answer, #switches, #kv figure, #kv-table, #pairs")]
    assert heights == sorted(heights)
    rows = [row.text for row in all_of(opened, "#kv-table tbody tr")]
    assert len(rows) == 3 and "the reference" in "".join(rows)
    assert {row["decode_flops_per_token"] for row in found["loss_over_kv"]} == {None}  # made-up plans tell none
    assert opened.find_element("id", "cell").text.splitlines()[0].strip().startswith("30M, 450M tokens")


def test_numbers_on_the_page_are_those_of_fit_json(opened, report):
    found = json.loads((report / "fit.json").read_text())
    laws = [
        fit[key]["value"] if isinstance(fit[key], dict) else fit[key]
        for fit in (one["fit"] for one in found["variants"].values())
        for key in ("E", "A", "alpha", "B", "beta", "runs", "rms_residual", "seed_scatter")
    ]
    assert numbers(opened, "laws") == laws
    answers = [
        value
        for row in found["at_budgets"]
        if row["accounting"] == "parameters"
        for value in (
            row["compute"],
            *(row[key]["value"] for key in ANSWERS if row[key]),
        )
    ]
    assert numbers(opened, "budgets") == answers
    pairs = [
        row[key]["value"] if isinstance(row[key], dict) else row[key]
        for row in found["verdicts"]
        for key in (
            "difference",
            "p_holm",
            "more_seeds",
            "p_sizes",
            "kv_ratio",
            "difference_at_equal_flops",
            "p_holm_at_equal_flops",
            "token_multiplier",
            "p_t",
            "p_signs",
            "pairs",
            "units",
        )
        if row[key] is not None
    ]
    assert numbers(opened, "pairs") == pairs
    text = opened.find_element("id", "laws").text
    assert f"{found['variants']['mfa']['fit']['alpha']['value']:.4g}"[:5] in text and "[" in text


def test_switches_axes_and_accountings_work(opened):
    def drawn() -> int:
        return len(all_of(opened, "#curves svg path[stroke]"))

    before = drawn()
    opened.find_element("css selector", "[data-switch=mfa]").click()
    assert drawn() == before * 2 // 3
    shown = [row for row in all_of(opened, "#laws tbody tr") if row.is_displayed()]
    assert [row.get_attribute("data-variant") for row in shown] == ["mha", "mla"]
    opened.find_element("css selector", "[data-switch=mfa]").click()
    assert drawn() == before
    log = opened.find_element("css selector", "#compute [data-axis=logX]")
    line = opened.find_element("css selector", "#compute svg path[stroke]").get_attribute("d")
    log.click()
    assert log.get_attribute("aria-pressed") == "false"
    assert opened.find_element("css selector", "#compute svg path[stroke]").get_attribute("d") != line
    multipliers = numbers(opened, "budgets")
    opened.execute_script(
        "const s = document.getElementById('accounting'); s.value = 'flops'; s.dispatchEvent(new Event('change'))"
    )
    assert numbers(opened, "budgets") != multipliers


def test_hovering_a_run_tells_it(opened):
    from selenium.webdriver import ActionChains

    opened.execute_script("document.getElementById('fits').scrollIntoView()")
    ActionChains(opened).move_to_element(opened.find_element("css selector", "#fits svg circle")).perform()
    tip = opened.find_element("id", "tip")
    assert tip.is_displayed() and "parameters" in tip.text and "seed" in tip.text


def test_it_fits_a_phone(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    opened.refresh()
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
        widths = "return [...document.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect().width)"
        assert max(opened.execute_script(widths)) <= 380
        assert opened.find_element("id", "switches").size["height"] <= 844 / 5
        cut = """return [...document.querySelectorAll("figure > svg text")]
            .filter((text) => text.getBoundingClientRect().left < 0 || text.getBoundingClientRect().right > 390)
            .map((text) => text.textContent)"""
        assert opened.execute_script(cut) == []
        wide = opened.find_element("css selector", ".frame:has(#all-runs)")
        assert "more-right" in wide.get_attribute("class")
        opened.execute_script("arguments[0].firstChild.scrollLeft = 1e6", wide)
        opened.execute_script("return new Promise(requestAnimationFrame)")
        assert "more-right" not in wide.get_attribute("class")
        assert opened.get_log("browser") == []
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_of_runs_and_variants_are_text_wherever_they_stand(chromium, tmp_path):
    runs = write_ladder(tmp_path / "runs", VARIANTS[:1], {"4x192": 3.2e6}, (5e7,), (1, 2))
    runs[0].rename(runs[0].with_name(HOSTILE.replace("/", "\u2044")))
    (tmp_path / "points.csv").write_text(f'N,D,loss,group\n1e7,1e9,3.1,"{HOSTILE}"\n')
    study = gather([tmp_path / "runs", tmp_path / "points.csv"])
    write_report(study, tmp_path / "report", configs.load(["tracking=none"]).tracking)
    chromium.get((tmp_path / "report" / "index.html").as_uri())
    assert chromium.title == "Attentions compared" and chromium.get_log("browser") == []
    assert not all_of(chromium, "img")
    assert HOSTILE in [button.get_attribute("textContent") for button in all_of(chromium, "#switches button")]
    notices, last = chromium.find_element("id", "notices"), all_of(chromium, "figure")[-1]
    assert notices.location["y"] > last.location["y"]


def test_scores_on_tasks_are_told_as_fit_json_has_them(scored, chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "_pictures", lambda *_: ([], ""))
    for run in scored.iterdir():
        write_scores(run, HOSTILE)
    write_report(gather([scored]), tmp_path / "out", configs.load(["tracking=none"]).tracking)
    result = json.loads((tmp_path / "out" / "fit.json").read_text())
    chromium.get((tmp_path / "out" / "index.html").as_uri())

    shown = {
        float(cell.get_attribute("data-value")): cell.text
        for cell in all_of(chromium, "#scores-of-bits_per_byte td[data-value]")
    }
    expected = {row["value"]: row for row in (one for one in result["evaluations"] if one["metric"] == "bits_per_byte")}
    assert shown.keys() == expected.keys() and len(shown) == 9
    for value, row in expected.items():
        assert shown[value].startswith(f"{value:.3f}") and f"±{row['stderr']:.3f}" in shown[value]
        assert ("▲" in shown[value], "▼" in shown[value]) == (row["said"] == "better", row["said"] == "worse")
    told_of = " ".join(chromium.find_element("id", "scores").text.split())
    assert all(" ".join(sentence.split()) in told_of for sentence in result["evaluations_told"][0]["sentences"])
    assert chromium.title == "Attentions compared" and not all_of(chromium, "img")
    order = [chromium.find_element("id", part).location["y"] for part in ("answer", "verdicts", "scores", "compute")]
    assert order == sorted(order)
    head = [cell.text for cell in all_of(chromium, "#all-runs th")]
    assert "told bits per byte" in " ".join(" ".join(head).split())
    chromium.find_element("css selector", "[data-switch=mfa]").click()
    assert len([row for row in all_of(chromium, "#scores-held tbody tr") if row.is_displayed()]) == 6
    assert chromium.get_log("browser") == []


def test_loss_by_position_is_drawn_of_each_variant_as_fit_json_has_it(few, chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "_pictures", lambda *_: ([], ""))
    for run in few.iterdir():
        seed = yaml.safe_load((run / "config.yaml").read_text())["seed"]
        of_bins = {str(2**place): 4 - place / 5 + seed for place in range(5)}
        before = {"init_from": {"val_loss_by_position": {"1": 6.0, "2": 7.0}}} if "mfa" in run.name else {}
        edit(run, val_loss_by_position=of_bins | {"odd": 3, "8": "x"}, **before)
    write_report(gather([few]), tmp_path / "out", configs.load(["tracking=none"]).tracking)
    rows = json.loads((tmp_path / "out" / "fit.json").read_text())["loss_by_position"]
    assert [(row["position"], row["loss"], row["runs"]) for row in rows if row["variant"] == "mfa"] == [
        (2**place, pytest.approx(5.5 - place / 5), 2) for place in (0, 1, 2, 4)
    ]
    assert (tmp_path / "out" / "loss_by_position.csv").read_text().count("\n") == 9
    chromium.get((tmp_path / "out" / "index.html").as_uri())
    lines = [line.get_attribute("stroke-dasharray") for line in all_of(chromium, "#positions svg path[stroke]")]
    assert len(all_of(chromium, "#positions svg circle")) == 8 and len(lines) == 3 and lines.count("2 3") == 1
    chromium.find_element("css selector", "[data-switch=mfa]").click()
    assert len(all_of(chromium, "#positions svg circle")) == 4 and chromium.get_log("browser") == []
    parts = [chromium.find_element("id", part).location["y"] for part in ("curves", "positions", "runs")]
    assert parts == sorted(parts)
