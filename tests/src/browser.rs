//! A headless Chromium in a network namespace, which is driven by WebDriver (W3C) over HTTP. Debian's `chromedriver` translates
//! that for it.
//!
//! Both run in a PID namespace of their own, so that no process is left.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::deb_programs;
use crate::lab::netns::Namespace;
use crate::wait;

/// The address of chromedriver, in the namespace.
const DRIVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9515);

/// Time limit for an answer. The first one starts the browser.
const LIMIT: Duration = Duration::from_secs(60);

/// WebDriver's code of the key (§17.4.2).
pub const TAB: &str = "\u{e004}";

/// A running browser with one window; ends on drop.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    host: Namespace,
    /// The path of the session.
    session: String,
}

impl Browser {
    /// Starts it with an empty profile below `directory`, which the caller removes later.
    pub fn start(host: &Namespace, directory: &Path) -> Result<Self> {
        let root = deb_programs::root("SIXXS_CHROMIUM", "chromium-driver", "usr/bin/chromedriver")?;
        let home = directory.join("browser");
        std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let mut command = host.command("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(root.join("usr/bin/chromedriver"))
            .arg(format!("--port={}", DRIVER.port()))
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env("FONTCONFIG_FILE", fonts(&home)?)
            .env("LD_LIBRARY_PATH", libraries(&root)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        let driver = command.spawn().context("start chromedriver")?;
        let mut browser = Self {
            driver,
            host: host.clone(),
            session: "/session".to_owned(),
        };
        wait::until(
            "chromedriver answers",
            Duration::from_secs(10),
            || Ok(browser.request("GET", "/status", None).is_ok()),
            |answers| *answers,
        )?;
        let session = browser.request("POST", "/session", Some(&wishes(&root, &home)))?;
        let id = session["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens an address.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("url", json!({ "url": url }))?;
        Ok(())
    }

    /// Runs a function's body in the page, and returns its result, or that of its promise.
    pub fn script(&self, body: &str) -> Result<Value> {
        self.post("execute/sync", json!({"script": body, "args": []}))
    }

    /// Waits until an expression in the page is true.
    pub fn until(&self, what: &str, limit: Duration, expression: &str) -> Result<()> {
        let body = format!("return Boolean({expression})");
        wait::until(what, limit, || self.script(&body), |seen| *seen == true)
            .with_context(|| self.text().unwrap_or_default())?;
        Ok(())
    }

    /// All text that the page shows.
    pub fn text(&self) -> Result<String> {
        let text = self.script("return document.body.innerText")?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Presses and releases a key.
    pub fn press(&self, key: &str) -> Result<()> {
        let down_and_up =
            json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let keyboard = json!([{"type": "key", "id": "keyboard", "actions": down_and_up}]);
        self.post("actions", json!({ "actions": keyboard }))?;
        Ok(())
    }

    /// Carries out a command of Chromium's own protocol.
    pub fn command(&self, name: &str, parameters: &Value) -> Result<Value> {
        self.post(
            "goog/cdp/execute",
            json!({"cmd": name, "params": parameters}),
        )
    }

    /// The entries of a log since the last call.
    pub fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let entries = self.post("se/log", json!({ "type": kind }))?;
        Ok(entries.as_array().context("no log")?.clone())
    }

    fn post(&self, command: &str, body: Value) -> Result<Value> {
        let path = format!("{}/{command}", self.session);
        self.request("POST", &path, Some(&body))
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let limit = LIMIT * wait::patience();
        let mut stream = self
            .host
            .run(|| Ok(TcpStream::connect_timeout(&DRIVER, limit)?))?;
        stream.set_read_timeout(Some(limit))?;
        let body = body.map_or_else(String::new, Value::to_string);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {DRIVER}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )?;
        let answer = answer(stream).with_context(|| format!("{method} {path}"))?;
        let mut answer: Value = serde_json::from_slice(&answer).context("read the answer")?;
        let value = answer["value"].take();
        if let Some(error) = value["error"].as_str() {
            let message = value["message"].as_str().unwrap_or_default();
            bail!("{method} {path}: {error}: {message}");
        }
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let ended = self.driver.kill().and_then(|()| self.driver.wait());
        if let Err(error) = ended {
            eprintln!("end the browser: {error}");
        }
    }
}

/// The body of an answer. chromedriver always gives its length, and does not close the connection.
fn answer(stream: TcpStream) -> Result<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse()?;
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// What the session is to be: logs of the console and of requests.
fn wishes(root: &Path, home: &Path) -> Value {
    // Root has no sandbox; the browser reaches nothing but the lab.
    let arguments = [
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--no-first-run".to_owned(),
        "--hide-scrollbars".to_owned(),
        format!("--user-data-dir={}", home.join("profile").display()),
    ];
    json!({"capabilities": {"alwaysMatch": {
        "browserName": "chrome",
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        "goog:chromeOptions": {
            "binary": root.join("usr/lib/chromium/chromium"),
            "args": arguments,
        },
    }}})
}

/// The search path of libraries. PulseAudio has a directory of its own.
fn libraries(root: &Path) -> Result<String> {
    let libraries = deb_programs::libraries(root);
    ensure!(libraries.exists(), "no {}", libraries.display());
    let sound = libraries.join("pulseaudio");
    Ok(format!("{}:{}", libraries.display(), sound.display()))
}

/// A configuration of fonts that is the same on every machine, so that pictures are alike.
fn fonts(home: &Path) -> Result<PathBuf> {
    const FONT: &str = "usr/share/fonts/opentype/inter";
    let root = deb_programs::root("SIXXS_FONT", "fonts-inter", FONT)?;
    let path = home.join("fonts.conf");
    let text = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"urn:fontconfig:fonts.dtd\"><fontconfig>\
         <dir>{}</dir><dir>/usr/share/fonts</dir><cachedir>{}</cachedir>\
         <alias binding=\"same\"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>\
         </fontconfig>",
        root.join(FONT).display(),
        home.join("fonts").display(),
    );
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
