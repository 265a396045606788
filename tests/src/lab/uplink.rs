//! Removes the uplink and restores it, like an unplugged modem or a boot script that runs again. For labs
//! without LANs, where no other host shares its link.

use anyhow::Result;

use crate::lab::Lab;
use crate::lab::netns::Namespace;
use crate::lab::topology::{UPLINK, UPLINK_ISP_END, fresh_index, uplink_host_end, uplink_wire};
use crate::shell;

/// Its name while it is renamed.
pub const AWAY: &str = "unused0";

/// Removes the address, and the route that uses it as source.
pub const WITHOUT_ADDRESS: &str = "address delete 2001:db8:1::1/64 dev net0\n";

/// Deletes the uplink.
pub fn delete(lab: &Lab) -> Result<()> {
    lab.host().ip(&format!("link delete {UPLINK}\n"))
}

/// Makes it again, with another index; then sets it up with addresses and routes.
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
    lab.prepare_uplink()?;
    raise(lab.host())
}

/// Restores missing addresses and routes, and sets it up.
pub fn raise(host: &Namespace) -> Result<()> {
    host.ip(&uplink_host_end())
}

/// Sets it down and renames it.
pub fn rename(host: &Namespace) -> Result<()> {
    host.ip(&format!(
        "link set {UPLINK} down\nlink set {UPLINK} name {AWAY}\n"
    ))
}

/// Restores the name, and sets it up.
pub fn rename_back(host: &Namespace) -> Result<()> {
    host.ip(&format!("link set {AWAY} name {UPLINK}\n"))?;
    raise(host)
}
