//! `sixxs init he`: the tunnels of an account at Hurricane Electric.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use sixxs_core::{
    config::{self, Url},
    init::hurricane::{self, INFO_URL, MAX_BYTES, UPDATE_URL},
    secret::Secret,
};
use tokio::time::timeout;

use crate::{
    broker::connects::Connects,
    host::{config_file, paths::Paths},
    web::{self, Answer, Message, Route, basic_authorization},
};

/// Time limit to connect, with TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Time limit of the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// `sixxs init he`.
#[derive(Args)]
pub(super) struct Arguments {
    /// The user name at tunnelbroker.net.
    #[arg(long)]
    user: String,
    /// A file with the password of the account, or with an update key, in one line.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Where the broker has the data of the account's tunnels.
    #[arg(long, default_value = INFO_URL)]
    url: String,
    /// Where the broker takes endpoint updates.
    #[arg(long, value_name = "URL", default_value = UPDATE_URL)]
    update_url: String,
    /// A file with the authorities for the server, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// The text of a configuration.
pub(super) async fn propose(paths: &Paths, arguments: &Arguments) -> anyhow::Result<String> {
    let url = Url::parse(&arguments.url).map_err(|wrong| anyhow::anyhow!("--url: {wrong}"))?;
    ensure!(
        url.tls || url.is_loopback(),
        "--url: expected \"https://HOST/PATH\": http would show the key to everybody on the way"
    );
    let key = read_key(&arguments.key_file)?;
    let answer = fetch(paths, arguments, &url, &key).await?;
    let host = &url.host;
    match answer.status {
        200 => {}
        401 | 403 => bail!("{host} refuses the user name or the key; correct --user or --key-file"),
        status => bail!("{host} answered {status}; correct --url, or ask the broker"),
    }
    ensure!(
        !answer.is_too_long,
        "the answer of {host} is too long for the data of tunnels; correct --url"
    );
    let tunnels = hurricane::read(&answer.body)
        .with_context(|| format!("the answer of {host} is not a list of tunnels; correct --url"))?;
    ensure!(
        !tunnels.is_empty(),
        "the account {} has no tunnels at {host}",
        arguments.user
    );
    let key_file = absolute(&arguments.key_file)?;
    let ca = arguments.ca.as_ref().map(absolute).transpose()?;
    let account = hurricane::Account {
        user: &arguments.user,
        key_file: &key_file,
        update_url: &arguments.update_url,
        ca: ca.as_deref(),
    };
    let text = hurricane::config(&tunnels, &account);
    // What the broker sent must not become a file that the daemon refuses.
    let key = |_: &str| Ok(key.expose().as_bytes().to_vec().into());
    config::parse_with("the configuration", &text, &key)
        .context("the tunnels of this account do not fit into one configuration")?;
    Ok(text)
}

fn read_key(file: &std::path::Path) -> anyhow::Result<Secret> {
    let shown = file
        .to_str()
        .context("--key-file: expected a path in UTF-8")?;
    let bytes = config_file::read_secret(shown)?;
    let text =
        str::from_utf8(&bytes).with_context(|| format!("{shown}: expected text in UTF-8"))?;
    let key = text.trim_end_matches(['\n', '\r']);
    let is_one_line = !key.is_empty() && !key.contains(char::is_control);
    ensure!(is_one_line, "{shown}: expected the key in one line");
    Ok(Secret::from(key))
}

fn absolute(file: impl AsRef<std::path::Path>) -> anyhow::Result<String> {
    let path = std::path::absolute(file).context("find the current directory")?;
    let shown = path.to_str().context("expected a path in UTF-8")?;
    Ok(shown.to_owned())
}

/// Takes a slot of the connect limit, and gets the data.
async fn fetch(
    paths: &Paths,
    arguments: &Arguments,
    url: &Url,
    key: &Secret,
) -> anyhow::Result<Answer> {
    let authorization = basic_authorization(&arguments.user, key)?;
    let limit = config_file::read_or_default(&paths.config)
        .map(|config| config.connect_limit)
        // A wrong file does not keep a new one from being made.
        .unwrap_or_default();
    let connects = Connects::new(&paths.state_dir, limit);
    if let Err(wait) = connects.take(url.bare_host()).await? {
        bail!("{}: {wait}", url.host);
    }
    let ca = arguments.ca.as_ref().map(|ca| ca.display().to_string());
    let host = &url.host;
    let stream = timeout(CONNECT_LIMIT, web::open(url, ca.as_deref(), Route::Any)).await;
    let stream = stream.with_context(|| {
        let seconds = CONNECT_LIMIT.as_secs();
        format!("connect to {host}: no answer within {seconds} s")
    })??;
    let message = Message::Get(authorization);
    let answer = web::exchange(stream, url, &url.target, message, MAX_BYTES);
    timeout(ANSWER_LIMIT, answer).await.with_context(|| {
        let seconds = ANSWER_LIMIT.as_secs();
        format!("wait for {host}: no answer within {seconds} s")
    })?
}
