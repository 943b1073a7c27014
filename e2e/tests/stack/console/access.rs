//! Accessibility of the console: contrast, names, structure and user preferences.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::page::Page;
use ringback_e2e::fixture::Fixture;

/// The minimum contrast of text in WCAG 2.2 (1.4.3, AA).
const CONTRAST: f64 = 4.5;

/// Each visible text with its contrast by the WCAG formula, against the first background below it that is not
/// transparent.
const CONTRASTS: &str = "
    const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
    const linear = (one) => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
    const luminance = ({ r, g, b }) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const colour = parse(getComputedStyle(one).backgroundColor);
            if (colour.a > 0) return colour;
        }
        return parse('rgb(255, 255, 255)');
    };
    const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('.unseen, .skip, noscript')
        && (one.matches('input, select') || [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim())));
    return texts.map((one) => {
        const [text, below] = [luminance(parse(getComputedStyle(one).color)), luminance(ground(one))];
        const ratio = (Math.max(text, below) + 0.05) / (Math.min(text, below) + 0.05);
        return [ratio, one.outerHTML.slice(0, 80)];
    });";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_accessible() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    page.switch_on().await?;
    page.click("#dial button").await?;
    page.shows("#phone-state", "is calling").await?;
    page.shows("#board .timeline", "Push sent to").await?;
    text_has_enough_contrast_in_both_colour_schemes(&page).await?;
    controls_have_names_and_the_page_has_a_structure(&page).await?;
    page.click("#decline").await?;
    page.latest_is("Declined").await?;
    page.close().await
}

async fn text_has_enough_contrast_in_both_colour_schemes(page: &Page) -> Result<()> {
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        // The growing ring animation is not a colour scheme change.
        let prefers = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]});
        page.browser
            .devtools("Emulation.setEmulatedMedia", prefers)
            .await?;
        let texts = page.browser.run(CONTRASTS, json!([])).await?;
        let texts: Vec<(f64, String)> = serde_json::from_value(texts)?;
        ensure!(texts.len() > 30, "found only {} texts", texts.len());
        let faint: Vec<_> = texts
            .iter()
            .filter(|(ratio, _)| *ratio < CONTRAST)
            .collect();
        ensure!(faint.is_empty(), "{scheme}: {faint:#?}");
        let moving = "document.getAnimations().length";
        assert_eq!(
            page.measured(moving).await?,
            0,
            "an animation runs in spite of the preference"
        );
        grounds.push(
            page.measured("getComputedStyle(document.body).backgroundColor")
                .await?,
        );
    }
    assert_ne!(
        grounds[0], grounds[1],
        "the dark scheme looks like the light one"
    );
    Ok(())
}

/// Checks the accessibility tree of the browser: every control has a role and a name.
async fn controls_have_names_and_the_page_has_a_structure(page: &Page) -> Result<()> {
    page.browser
        .devtools("Accessibility.enable", json!({}))
        .await?;
    let tree = page
        .browser
        .devtools("Accessibility.getFullAXTree", json!({}))
        .await?;
    let nodes: Vec<&Value> = tree["nodes"].as_array().into_iter().flatten().collect();
    let nodes = nodes.into_iter().filter(|node| node["ignored"] == false);
    let named = nodes.map(|node| {
        let text = |field: &str| node[field]["value"].as_str().unwrap_or_default();
        (text("role"), text("name"))
    });
    let named: Vec<(&str, &str)> = named.collect();
    let controls = [
        "button", "textbox", "combobox", "checkbox", "link", "listbox",
    ];
    let nameless: Vec<_> = named
        .iter()
        .filter(|(role, name)| controls.contains(role) && name.is_empty())
        .collect();
    ensure!(nameless.is_empty(), "{nameless:?}");
    for expected in [
        ("heading", "Ringback"),
        ("heading", "Calls"),
        ("region", "Phone"),
        ("region", "Test call"),
        ("combobox", "See calls as"),
        ("button", "Accept"),
        ("button", "Decline"),
        ("textbox", "Caller's name"),
        ("button", "Place a test call"),
    ] {
        ensure!(
            named.contains(&expected),
            "{expected:?} is not in {named:#?}"
        );
    }
    for role in ["main", "banner", "status", "alert"] {
        ensure!(
            named.iter().any(|(one, _)| *one == role),
            "no element has the role {role}"
        );
    }
    let structure =
        "[document.documentElement.lang, document.title, document.querySelectorAll('h1').length,
        document.querySelectorAll('[tabindex]:not([tabindex=\"-1\"])').length]";
    assert_eq!(
        page.measured(structure).await?,
        json!(["en", "Ringback console", 1, 0])
    );
    Ok(())
}
