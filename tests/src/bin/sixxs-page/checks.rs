//! The checks of the page in a browser.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};
use sixxs_tests::browser::{Browser, TAB};

const PICTURES: &str = "docs/pictures";

/// A picture is for a web page, so it is small.
const MAX_PICTURE_BYTES: usize = 150_000;

/// What counts against the page, of axe's `impact`.
const SERIOUS: [&str; 2] = ["serious", "critical"];

/// How the page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// While a tunnel is failing.
    Failing,
    Wide,
    Dark,
    Phone,
}

impl View {
    /// Those of a healthy host.
    pub(crate) const HEALTHY: [Self; 3] = [Self::Wide, Self::Dark, Self::Phone];

    /// The name of its picture, if it has one.
    const fn picture(self) -> Option<&'static str> {
        match self {
            Self::Failing => Some("page.png"),
            Self::Wide => None,
            Self::Dark => Some("page-dark.png"),
            Self::Phone => Some("page-phone.png"),
        }
    }

    /// Width and height, and pixels per point.
    const fn size(self) -> (u32, u32, u32) {
        match self {
            Self::Failing | Self::Wide | Self::Dark => (1060, 900, 1),
            Self::Phone => (360, 740, 2),
        }
    }
}

/// The page in a browser.
pub(crate) struct Page<'a> {
    browser: &'a Browser,
    address: &'static str,
    axe: String,
}

impl<'a> Page<'a> {
    pub(crate) fn open(browser: &'a Browser, address: &'static str) -> Result<Self> {
        let axe = std::env::var_os("SIXXS_AXE").map_or_else(
            || PathBuf::from("target/page/node_modules/axe-core/axe.min.js"),
            PathBuf::from,
        );
        let axe = fs::read_to_string(&axe)
            .with_context(|| format!("read {}; `cargo xtask test page` gets it", axe.display()))?;
        let page = Self {
            browser,
            address,
            axe,
        };
        page.set(View::Wide)?;
        // The requests of the empty window are its own.
        browser.log("performance")?;
        browser.open(&format!("http://{address}/"))?;
        Ok(page)
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn until(&self, what: &str, limit: Duration, expression: &str) -> Result<()> {
        self.browser.until(what, limit, expression)
    }

    /// Waits until the page shows all of these texts.
    pub(crate) fn shows(&self, what: &str, limit: Duration, texts: &[&str]) -> Result<()> {
        let texts = json!(texts);
        let expression = format!("{texts}.every((text) => document.body.innerText.includes(text))");
        self.until(what, limit, &expression)
    }

    /// The page shows names, addresses, rates, answers, charts and exits.
    pub(crate) fn check_content(&self) -> Result<()> {
        let texts = [
            "sixxs0",
            "sixxs1",
            "2001:db8:a::2",
            "Healthy",
            "Last 24 hours",
            "Last 60 days",
            "Exits",
            "net0",
            "yes, by",
            "Leaks and repairs",
            "100%",
        ];
        self.shows("the content", Duration::from_secs(10), &texts)?;
        let number = |expression: &str| -> Result<f64> {
            let found = self.browser.script(&format!("return {expression}"))?;
            found
                .as_f64()
                .with_context(|| format!("{expression}: {found}"))
        };
        for (what, expression, least) in [
            (
                "points of the live chart",
                "document.querySelector('[data-is=line-in]').getAttribute('d').split('L').length",
                20.0,
            ),
            (
                "runs of minutes",
                "document.querySelectorAll('.card:first-child .minutes rect').length",
                5.0,
            ),
            (
                "days",
                "document.querySelectorAll('.card:first-child .days rect').length",
                60.0,
            ),
        ] {
            let found = number(expression)?;
            ensure!(found >= least, "{what}: {found}");
        }
        let rate = self
            .browser
            .script("return document.querySelector('[data-is=in]').textContent")?;
        let rate = rate.as_str().unwrap_or_default();
        ensure!(
            rate.ends_with("/s") && rate != "0 B/s",
            "the rate is {rate}"
        );
        Ok(())
    }

    /// Sets the size and the colours.
    fn set(&self, view: View) -> Result<()> {
        let (width, height, scale) = view.size();
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": scale,
            "mobile": view == View::Phone});
        self.browser
            .command("Emulation.setDeviceMetricsOverride", &metrics)?;
        let scheme = if view == View::Dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.browser.command(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        )?;
        Ok(())
    }

    /// Checks a view with axe, closed and with all details open, that nothing is wider than the screen, and takes a picture.
    pub(crate) fn check_everywhere(&self, view: View) -> Result<()> {
        self.set(view)?;
        self.browser.script("scrollTo(0, 0); document.querySelectorAll('details').forEach((one) => one.open = false)")?;
        // Cards are drawn when they are on the screen.
        self.until("the frame is drawn", Duration::from_secs(5), "new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))))")?;
        if let Some(name) = view.picture() {
            self.take_picture(view, name)?;
        }
        self.check_axe(view)?;
        self.browser
            .script("document.querySelectorAll('details').forEach((one) => one.open = true)")?;
        self.check_axe(view)?;
        let widths = self
            .browser
            .script("return [document.documentElement.scrollWidth, innerWidth]")?;
        ensure!(
            widths[0].as_u64() <= widths[1].as_u64(),
            "{view:?}: the page is wider than the screen: {widths}"
        );
        self.browser
            .script("document.querySelectorAll('details').forEach((one) => one.open = false)")?;
        println!("{view:?} is checked");
        Ok(())
    }

    fn check_axe(&self, view: View) -> Result<()> {
        let script = format!(
            "{}; return axe.run(document, {{resultTypes: ['violations']}}).then((found) => [axe.version, found.violations])",
            self.axe
        );
        let found = self.browser.script(&script)?;
        let violations = found[1].as_array().context("axe has no result")?;
        let is_serious = |violation: &&Value| {
            violation["impact"]
                .as_str()
                .is_some_and(|impact| SERIOUS.contains(&impact))
        };
        let serious: Vec<_> = violations.iter().filter(is_serious).collect();
        ensure!(
            serious.is_empty(),
            "{view:?}: axe {}: {serious:#?}",
            found[0]
        );
        for violation in violations {
            println!(
                "{view:?}: axe: {}: {}",
                violation["impact"], violation["help"]
            );
        }
        Ok(())
    }

    fn take_picture(&self, view: View, name: &str) -> Result<()> {
        let picture = self.browser.command(
            "Page.captureScreenshot",
            &json!({"format": "png", "captureBeyondViewport": view != View::Phone, "optimizeForSpeed": false}),
        )?;
        let path = Path::new(PICTURES).join(name);
        let data = picture["data"].as_str().context("no picture")?;
        let bytes = Base64::decode_vec(data).context("decode the picture")?;
        ensure!(
            bytes.len() < MAX_PICTURE_BYTES,
            "{}: {} bytes",
            path.display(),
            bytes.len()
        );
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// The key Tab reaches all links, fields and details, and the focus is visible.
    pub(crate) fn check_keyboard(&self) -> Result<()> {
        self.set(View::Wide)?;
        let all = "[...document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]')]\
                   .filter((one) => one.checkVisibility({contentVisibilityAuto: false}))";
        self.browser.script(&format!("document.activeElement.blur(); scrollTo(0, 0); {all}.forEach((one, number) => one.dataset.stop = number)"))?;
        let count = self.browser.script(&format!("return {all}.length"))?;
        let count = count.as_u64().context("a number")?;
        let mut reached = BTreeSet::new();
        for _ in 0..count {
            self.browser.press(TAB)?;
            let stop = self.browser.script("return [document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]")?;
            ensure!(stop[1] == "solid", "the focus is not seen at {stop}");
            reached.extend(stop[0].as_str().map(str::to_owned));
        }
        ensure!(
            reached.len() as u64 == count && count >= 4,
            "reached {reached:?} of {count}"
        );
        println!("the keyboard reaches {count} places");
        Ok(())
    }

    /// Nothing is requested from elsewhere, and the console is empty.
    pub(crate) fn check_requests(&self) -> Result<()> {
        let console = self.browser.log("browser")?;
        ensure!(console.is_empty(), "the console: {console:#?}");
        let own = format!("http://{}/", self.address);
        let mut requests = 0;
        for entry in self.browser.log("performance")? {
            let message: Value =
                serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"]
                    .as_str()
                    .unwrap_or_default();
                ensure!(url.starts_with(&own), "a request to {url}");
                requests += 1;
            }
        }
        ensure!(requests >= 6, "only {requests} requests were seen");
        println!("{requests} requests, all to {own}");
        Ok(())
    }

    /// With many tunnels little is drawn again, and the page stays responsive.
    pub(crate) fn check_steady(&self) -> Result<()> {
        const SECONDS: u64 = 10;
        let changes = self.browser.script(&format!(
            "let changes = 0, nodes = 0, late = 0, last = performance.now();
             const timer = setInterval(() => {{ late = Math.max(late, performance.now() - last - 50); last = performance.now(); }}, 50);
             const observer = new MutationObserver((all) => {{ changes += all.length; for (const one of all) nodes += one.addedNodes.length; }});
             observer.observe(document.body, {{subtree: true, childList: true, attributes: true, characterData: true}});
             return new Promise((done) => setTimeout(() => {{ clearInterval(timer); observer.disconnect(); done([changes, nodes, late]); }}, {SECONDS} * 1000))"
        ))?;
        let [changes, nodes, late] =
            [0, 1, 2].map(|index| changes[index].as_f64().unwrap_or(f64::MAX));
        println!(
            "with many tunnels: {changes} changes and {nodes} new nodes in {SECONDS} s, busy for at most {late:.0} ms"
        );
        ensure!(
            changes < 1000.0 && nodes < 500.0 && late < 1000.0,
            "the page is drawn again and again"
        );
        let began = Instant::now();
        self.browser.script("const input = document.querySelector('#find input'); input.value = 'more399'; input.dispatchEvent(new Event('input'))")?;
        let shown = self.browser.script(
            "return [...document.querySelectorAll('.card')].filter((one) => !one.hidden).length",
        )?;
        ensure!(shown == 1, "a search has {shown} results");
        println!("a search takes {} ms", began.elapsed().as_millis());
        self.browser.script("const input = document.querySelector('#find input'); input.value = ''; input.dispatchEvent(new Event('input'))")?;
        Ok(())
    }
}
