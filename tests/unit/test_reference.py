"""docs/settings.md says what the models say."""

from tests.support.reference import PAGE, page


def test_the_settings_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make settings-reference` and commit docs/settings.md"
