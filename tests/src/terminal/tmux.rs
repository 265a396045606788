//! Owns terminals for programs that draw: tmux with a server of its own, which is killed when dropped.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::netns::Namespace;
use crate::program::Program;
use crate::{shell, wait};

/// How long something may take to be seen.
const LIMIT: Duration = Duration::from_secs(15);

/// A terminal with a shell in the host of a lab.
#[derive(Debug)]
pub struct Tmux {
    server: String,
}

/// What the shell says when it waits for a command.
pub const PROMPT: &str = "ready$";

impl Tmux {
    /// With so many columns and rows. The shell has the program's environment, and `environment`
    /// (`NAME=value` each) besides.
    pub fn start(
        host: &Namespace,
        program: &Program,
        (columns, rows): (u16, u16),
        environment: &[&str],
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmux = Self {
            server: format!("sixxs-{}-{number}", std::process::id()),
        };
        let mut command = host.command("tmux");
        program.apply_environment(&mut command);
        command
            .args(["-L", &tmux.server, "-f", "/dev/null"])
            .args(["new-session", "-d"])
            .args(["-x", &columns.to_string(), "-y", &rows.to_string()])
            // Without files of its user's, and with nothing in its environment that says how to look.
            .args(["env", "-u", "NO_COLOR", "-u", "LC_CTYPE"])
            .args(["LC_ALL=C.UTF-8", "ENV=", "HISTFILE="])
            .arg(format!("PS1={PROMPT} "))
            .args(environment)
            .args(["sh", "-i"])
            // The server outlives whom it was started by.
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8");
        shell::capture(&mut command)?;
        tmux.run(&["set-option", "-g", "status", "off"])?;
        tmux.run(&["set-option", "-g", "window-size", "manual"])?;
        tmux.resize((columns, rows))?;
        tmux.until("the shell is ready", |screen| screen.contains(PROMPT))?;
        Ok(tmux)
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<()> {
        self.run(&["send-keys", "-l", text])?;
        self.key("Enter")
    }

    /// Presses a key, by tmux' name of it.
    pub fn key(&self, name: &str) -> Result<()> {
        self.run(&["send-keys", name]).map(drop)
    }

    /// Gives the terminal another size.
    pub fn resize(&self, (columns, rows): (u16, u16)) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &columns, "-y", &rows])
            .map(drop)
    }

    /// What it shows.
    pub fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// The same, with colours as escape sequences.
    pub fn coloured_screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-e", "-p"])
    }

    /// Something that tmux knows of the terminal: `alternate_on`, `cursor_flag`…
    pub fn asked(&self, what: &str) -> Result<String> {
        let answer = self.run(&["display-message", "-p", &format!("#{{{what}}}")])?;
        Ok(answer.trim().to_owned())
    }

    /// Waits until it shows what is wanted, and returns that.
    pub fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        let good = |screen: &String| good(screen);
        let seen = wait::until(what, LIMIT, || self.screen(), good);
        seen.with_context(|| match self.screen() {
            Ok(screen) => format!("the screen at the end:\n{screen}"),
            Err(error) => format!("{error:#}"),
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.server]).args(arguments);
        shell::capture(&mut tmux)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["kill-server"]) {
            eprintln!("kill tmux: {error:#}");
        }
    }
}
