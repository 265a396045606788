//! Finds the owner of a control group: a systemd unit, a container, or none.

/// The owner of a control group, as far as its path shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The systemd unit: a service or scope; for a unit of a user manager, `UNIT of user UID`.
    pub unit: Option<String>,
    /// The container: its runtime, and its name or the first twelve digits of its ID.
    pub container: Option<String>,
}

/// Number of digits of a container's ID to show, as usual.
const DIGITS: usize = 12;

impl Owner {
    /// From a path below the root of the control groups.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let parts: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(unescape)
            .collect();
        let is_unit = |part: &&String| part.ends_with(".service") || part.ends_with(".scope");
        let unit = parts.iter().rfind(is_unit);
        let user = parts.iter().find_map(|part| {
            let uid = part.strip_prefix("user@")?.strip_suffix(".service")?;
            Some(uid.to_owned())
        });
        let of_user = |unit: &String| match &user {
            Some(uid) if !unit.starts_with("user@") => format!("{unit} of user {uid}"),
            _ => unit.clone(),
        };
        Self {
            unit: unit.map(of_user),
            container: container(&parts),
        }
    }
}

/// The innermost container. It accepts the forms of Docker, Podman, containerd and CRI-O with systemd
/// (`docker-NUMBER.scope`) and without (`docker/NUMBER`), LXC (`lxc.payload.NAME`, `lxc/NAME`) and
/// systemd-nspawn (`machine-NAME.scope`, `systemd-nspawn@NAME.service`).
fn container(parts: &[String]) -> Option<String> {
    const RUNNERS: [(&str, &str); 6] = [
        ("docker", "docker"),
        ("libpod", "podman"),
        ("cri-containerd", "containerd"),
        ("crio", "cri-o"),
        ("nerdctl", "nerdctl"),
        ("kubepods", "kubernetes"),
    ];
    for (place, part) in parts.iter().enumerate().rev() {
        let name = part
            .strip_suffix(".scope")
            .or_else(|| part.strip_suffix(".service"))
            .unwrap_or(part);
        if let Some((runner, number)) = name.rsplit_once('-')
            && is_number(number)
        {
            let known = RUNNERS.iter().find(|(prefix, _)| *prefix == runner);
            let runner = known.map_or(runner, |(_, known)| known);
            return Some(format!("{runner} {}", &number[..DIGITS]));
        }
        let above = place.checked_sub(1).map_or("", |above| &parts[above]);
        if is_number(name) {
            let known = RUNNERS.iter().find(|(prefix, _)| above.starts_with(prefix));
            let runner = known.map_or("container", |(_, known)| known);
            return Some(format!("{runner} {}", &name[..DIGITS]));
        }
        let named = [
            ("lxc", name.strip_prefix("lxc.payload.")),
            ("lxc", (above == "lxc").then_some(name)),
            ("machine", name.strip_prefix("machine-")),
            ("machine", name.strip_prefix("systemd-nspawn@")),
        ];
        if let Some((runner, name)) = named
            .into_iter()
            .find_map(|(runner, name)| name.map(|name| (runner, name)))
        {
            return Some(format!("{runner} {name}"));
        }
    }
    None
}

/// Whether it is the ID of a container: 64 hexadecimal digits.
fn is_number(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Decodes systemd's escapes (`\x2d` for a dash). Other text stays as it is.
fn unescape(part: &str) -> String {
    let mut text = String::new();
    let mut rest = part;
    while let Some((before, behind)) = rest.split_once("\\x") {
        text.push_str(before);
        let code = behind
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(u8::is_ascii_graphic) {
            Some(code) => {
                text.push(char::from(code));
                rest = &behind[2..];
            }
            None => {
                text.push_str("\\x");
                rest = behind;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn every_form_of_path() {
        let number = "0123456789abcdef".repeat(4);
        let cases = [
            ("/", None, None),
            ("/system.slice/nginx.service", Some("nginx.service"), None),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service"), None),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope"), None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Some("foo.service of user 1000"), None),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("init.scope of user 1000"), None),
            ("/system.slice/docker-NUMBER.scope", Some("docker-NUMBER.scope"), Some("docker 0123456789ab")),
            ("/docker/NUMBER", None, Some("docker 0123456789ab")),
            ("/machine.slice/libpod-NUMBER.scope/container", Some("libpod-NUMBER.scope"), Some("podman 0123456789ab")),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-NUMBER.scope", Some("cri-containerd-NUMBER.scope"), Some("containerd 0123456789ab")),
            ("/kubepods/besteffort/pod1/NUMBER", None, Some("container 0123456789ab")),
            ("/lxc.payload.web/system.slice/a.service", Some("a.service"), Some("lxc web")),
            ("/lxc/web", None, Some("lxc web")),
            ("/machine.slice/machine-my\\x2dbox.scope", Some("machine-my-box.scope"), Some("machine my-box")),
            ("/machine.slice/systemd-nspawn@box.service/payload", Some("systemd-nspawn@box.service"), Some("machine box")),
            ("/some/thing", None, None),
            ("/odd\\xzz\\x0a\\x/é.service", Some("é.service"), None),
        ];
        for (path, unit, container) in cases {
            let fill = |text: &str| text.replace("NUMBER", &number);
            let owner = Owner::of(&fill(path));
            assert_eq!(owner.unit, unit.map(fill), "{path}");
            assert_eq!(owner.container.as_deref(), container, "{path}");
        }
        assert_eq!(unescape("odd\\xzz\\x0a\\x"), "odd\\xzz\\x0a\\x");
    }
}
