//! Owns what of a guide's Markdown is carried out, and in which order. Nothing is run here.
//!
//! - A fenced block whose first line is `# /path` is that file, whole, as an editor writes it
//!   (`toml`, `ini`, `conf`).
//! - A block of `console` is what stands on a terminal: a line with a prompt is a command, the lines
//!   below it are what it prints (see `output_match`). Prompts: `# ` root on the host, `outside$ ` somebody
//!   elsewhere on the internet, `lan$ ` a host behind it.
//! - A comment before a block says what is odd about it: `<!-- exits N -->` for the exit status of its
//!   last command, `<!-- not run: WHY -->` for a block that is only read.
//!
//! Every other block is an error: what people are to type is tried.

use anyhow::{Context as _, Result, bail, ensure};

/// A guide, by its file.
#[derive(Debug)]
pub(crate) struct Guide {
    /// Of its file.
    pub(crate) name: &'static str,
    /// What is to be done, in order.
    pub(crate) steps: Vec<Step>,
    /// Why blocks are not run.
    pub(crate) not_run: Vec<String>,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// In the file, from 1.
    pub(crate) line: usize,
    /// The heading of the second level above.
    pub(crate) chapter: String,
    pub(crate) action: Action,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A file to write.
    File { path: String, text: String },
    /// A command to run, what it prints and how it ends.
    Command {
        at: Prompt,
        line: String,
        printed: Vec<String>,
        exits: i32,
    },
}

/// Where a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// On the host, as root.
    Host,
    /// Elsewhere on the internet.
    Outside,
    /// On a LAN behind the host.
    Lan,
}

const PROMPTS: [(&str, Prompt); 3] = [
    ("# ", Prompt::Host),
    ("outside$ ", Prompt::Outside),
    ("lan$ ", Prompt::Lan),
];

const FENCE: &str = "```";

/// Says of the block after it that it is not run.
const NOT_RUN: &str = "<!-- not run:";
/// Says how the last command of the block after it ends.
const EXITS: &str = "<!-- exits ";

impl Guide {
    pub(crate) fn read(name: &'static str, text: &str) -> Result<Self> {
        let mut guide = Self {
            name,
            steps: Vec::new(),
            not_run: Vec::new(),
        };
        let (mut chapter, mut mark) = (String::new(), None);
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                title.clone_into(&mut chapter);
            } else if let Some(language) = line.trim_start().strip_prefix(FENCE) {
                let block: Vec<_> = lines
                    .by_ref()
                    .take_while(|(_, line)| line.trim() != FENCE)
                    .collect();
                guide
                    .block(language, &block, mark.take(), &chapter)
                    .with_context(|| format!("{name}, line {}", index + 1))?;
            } else if line.starts_with(NOT_RUN) || line.starts_with(EXITS) {
                mark = Some(line);
            } else if !line.trim().is_empty() {
                ensure!(
                    mark.is_none(),
                    "{name}, line {}: a mark has to stand right before its block",
                    index + 1
                );
            }
        }
        Ok(guide)
    }

    fn block(
        &mut self,
        language: &str,
        block: &[(usize, &str)],
        mark: Option<&str>,
        chapter: &str,
    ) -> Result<()> {
        let comment = |start| mark.and_then(|mark| mark.strip_prefix(start)?.strip_suffix("-->"));
        if let Some(why) = comment(NOT_RUN) {
            ensure!(!why.trim().is_empty(), "say why it is not run");
            self.not_run.push(why.trim().to_owned());
            return Ok(());
        }
        let exits = match comment(EXITS) {
            Some(number) => number.trim().parse().context("read an exit status")?,
            None => 0,
        };
        let before = self.steps.len();
        match language {
            "console" => self.console(block, chapter)?,
            "toml" | "ini" | "conf" => self.file(block, chapter)?,
            other => {
                bail!("a block of {other:?} cannot be run: say why not, or write it otherwise")
            }
        }
        ensure!(
            self.steps.len() > before,
            "nothing to be done in this block"
        );
        if let Some(Step {
            action: Action::Command { exits: last, .. },
            ..
        }) = self.steps.last_mut()
        {
            *last = exits;
        }
        Ok(())
    }

    fn file(&mut self, block: &[(usize, &str)], chapter: &str) -> Result<()> {
        let &(index, first) = block.first().context("an empty file")?;
        let path = first
            .strip_prefix("# ")
            .filter(|path| path.starts_with('/'));
        let path = path.context("its first line does not say which file it is: `# /path`")?;
        let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
        self.steps.push(Step {
            line: index + 1,
            chapter: chapter.to_owned(),
            action: Action::File {
                path: path.to_owned(),
                text,
            },
        });
        Ok(())
    }

    fn console(&mut self, block: &[(usize, &str)], chapter: &str) -> Result<()> {
        let begin = self.steps.len();
        for &(index, text) in block {
            let prompt = |(start, at): &(&str, Prompt)| Some((*at, text.strip_prefix(start)?));
            if let Some((at, line)) = PROMPTS.iter().find_map(prompt) {
                self.steps.push(Step {
                    line: index + 1,
                    chapter: chapter.to_owned(),
                    action: Action::Command {
                        at,
                        line: line.to_owned(),
                        printed: Vec::new(),
                        exits: 0,
                    },
                });
                continue;
            }
            let of_this_block = self.steps.get_mut(begin..).and_then(<[Step]>::last_mut);
            let Some(Step {
                action: Action::Command { printed, .. },
                ..
            }) = of_this_block
            else {
                bail!("{text:?} stands before the first command");
            };
            printed.push(text.to_owned());
        }
        Ok(())
    }
}

#[test]
fn blocks_become_steps() -> Result<()> {
    let text = "# Title\n\n## One\n\n```toml\n# /etc/a.toml\na = 1\n```\n\nText.\n\n\
                <!-- exits 3 -->\n\n```console\n# true\n# sixxs plan\na\nb\n```\n\
                ## Two\n```console\noutside$ ping\n```\n<!-- not run: a picture -->\n```text\n-->\n```\n";
    let guide = Guide::read("test", text)?;
    assert_eq!(guide.not_run, ["a picture"]);
    let command = |at, line: &str, printed: &[&str], exits| Action::Command {
        at,
        line: line.to_owned(),
        printed: printed.iter().map(|&line| line.to_owned()).collect(),
        exits,
    };
    let file = Action::File {
        path: "/etc/a.toml".to_owned(),
        text: "# /etc/a.toml\na = 1\n".to_owned(),
    };
    let steps = [
        (6, "One", file),
        (15, "One", command(Prompt::Host, "true", &[], 0)),
        (
            16,
            "One",
            command(Prompt::Host, "sixxs plan", &["a", "b"], 3),
        ),
        (22, "Two", command(Prompt::Outside, "ping", &[], 0)),
    ];
    let steps = steps.map(|(line, chapter, action)| Step {
        line,
        chapter: chapter.to_owned(),
        action,
    });
    assert_eq!(guide.steps, steps);
    Ok(())
}

#[test]
fn what_cannot_be_run_is_an_error() {
    for text in [
        "```sh\n# true\n```\n",
        "```toml\na = 1\n```\n",
        "```console\nprinted\n# true\n```\n",
        "```console\n```\n",
        "<!-- not run: -->\n```text\n```\n",
        "<!-- exits 3 -->\nText between.\n```console\n# true\n```\n",
    ] {
        assert!(Guide::read("test", text).is_err(), "{text}");
    }
}
