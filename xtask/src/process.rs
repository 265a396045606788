//! Runs other programs. A failure has a verb, the command line and advice.
//!
//! Owns the display of commands and of their failures.

use std::{
    convert::Infallible,
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Limit of arguments in a message.
const SHOWN_ARGUMENTS: usize = 60;

/// Runs `command` with this process's output. `verb` is its purpose; `advice` is the remedy if it fails.
pub(crate) fn run(verb: &str, command: &mut Command, advice: &str) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{verb}: start `{}`; {advice}", line(command)))?;
    if !status.success() {
        bail!("{verb}: `{}` ended with {status}; {advice}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns its output; it shares this process's standard error.
pub(crate) fn capture(verb: &str, command: &mut Command, advice: &str) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{verb}: start `{}`; {advice}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{verb}: `{}` ended with {}; {advice}",
            line(command),
            output.status
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{verb}: read the output of `{}`", line(command)))
}

/// Runs a program that may not exist or may fail; returns its output, or `None`.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()
}

/// Executes `command` in place of this process, so that it gets the signals and the terminal. Returns only on
/// failure.
pub(crate) fn become_command(verb: &str, command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    Err(error).with_context(|| format!("{verb}: start `{}`", line(command)))
}

/// The command line as a shell would accept it, with the variables set for it. A long list of files is cut.
pub(crate) fn line(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.display(), quote(value)));
        }
    }
    words.push(quote(command.get_program()));
    words.extend(command.get_args().take(SHOWN_ARGUMENTS).map(quote));
    let hidden = command.get_args().len().saturating_sub(SHOWN_ARGUMENTS);
    if hidden > 0 {
        words.push(format!("… ({hidden} more)"));
    }
    words.join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_pasted() {
        let mut command = Command::new("/usr/bin/cargo");
        command
            .args(["build", "a b", "it's", ""])
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTC");
        assert_eq!(
            line(&command),
            r"RUSTC_BOOTSTRAP=1 /usr/bin/cargo build 'a b' 'it'\''s' ''"
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut command = Command::new("check");
        command.args(vec!["a"; SHOWN_ARGUMENTS + 3]);
        let line = line(&command);
        assert!(line.ends_with(" a a … (3 more)"), "{line}");
    }

    #[test]
    fn a_failure_names_verb_command_and_advice() {
        let error = run("try it", Command::new("false").arg("x"), "do better").unwrap_err();
        assert_eq!(
            error.to_string(),
            "try it: `false x` ended with exit status: 1; do better"
        );
    }

    #[test]
    fn a_missing_program_is_an_error_or_no_answer() {
        assert!(
            run(
                "try it",
                &mut Command::new("/nonexistent/program"),
                "get it"
            )
            .is_err()
        );
        assert_eq!(ask(&mut Command::new("/nonexistent/program")), None);
        assert_eq!(ask(&mut Command::new("false")), None);
    }
}
