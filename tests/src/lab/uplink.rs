//! Owns the uplink going and coming back, as a modem is unplugged or a boot script runs again. For
//! labs without LANs, where nobody else shares its wire.

use anyhow::Result;

use crate::lab::Lab;
use crate::lab::netns::Namespace;
use crate::lab::topology::{UPLINK, UPLINK_ISP_END, fresh_index, uplink_host_end, uplink_wire};
use crate::shell;

/// What it is called while it is renamed.
pub const AWAY: &str = "unused0";

/// Takes the address away, and the route that names it.
pub const WITHOUT_ADDRESS: &str = "address delete 2001:db8:1::1/64 dev net0\n";

/// Deletes it.
pub fn delete(lab: &Lab) -> Result<()> {
    lab.host().ip(&format!("link delete {UPLINK}\n"))
}

/// Makes it anew, with another index; up only after that, with addresses and routes.
pub fn create(lab: &Lab) -> Result<()> {
    let name = |node: &str| match node {
        "isp" => lab.isp().name().to_owned(),
        _ => lab.host().name().to_owned(),
    };
    shell::capture_with_input(
        std::process::Command::new("ip").args(["-batch", "-"]),
        &uplink_wire(name, fresh_index()),
    )?;
    for namespace in [lab.host(), lab.isp()] {
        namespace.speed_up_neighbour_discovery()?;
    }
    lab.isp().ip(UPLINK_ISP_END)?;
    raise(lab.host())
}

/// Gives it back whatever it lost: addresses, routes, and that it is up.
pub fn raise(host: &Namespace) -> Result<()> {
    host.ip(&uplink_host_end())
}

/// Takes it down and calls it something else.
pub fn rename(host: &Namespace) -> Result<()> {
    host.ip(&format!(
        "link set {UPLINK} down\nlink set {UPLINK} name {AWAY}\n"
    ))
}

/// Takes the name back, and raises it.
pub fn rename_back(host: &Namespace) -> Result<()> {
    host.ip(&format!("link set {AWAY} name {UPLINK}\n"))?;
    raise(host)
}
