//! The interface of a native tunnel: made, found again, and removed.

use std::time::Duration;

use anyhow::bail;
use sixxs_core::{
    config::{Kind, SixInFour, Tunnel},
    tunnel::{DriverState, OuterReport},
};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{
    Context, NativeTunnel,
    carrier::{AyiyaCarrier, SitCarrier, SixInFourCarrier},
    run::LinkOutcome,
};
use crate::{
    driver::backoff::{Backoff, RemakePauses},
    host::{fd_store::Descriptor, kernel_support},
    netlink::{
        Netlink,
        owned_links::LinkByName,
        sit::{Ends, NoSit},
    },
    wire::Device,
};

impl NativeTunnel {
    /// Keeps a tunnel up; returns only when its parameters from the broker may be outdated.
    pub(super) async fn keep_up(&mut self, tunnel: &Tunnel) {
        self.context.status.set(DriverState::Working(None));
        if let Kind::SixInFour(outer) = &tunnel.kind
            && tunnel.carrier.is_by_sit(kernel_support::can_carry())
        {
            self.keep_up_by_sit(tunnel, outer).await;
        }
        let mut backoff = Backoff::default();
        let mut remake = RemakePauses::default();
        loop {
            self.context.status.set(DriverState::Working(None));
            let device = match self.device().await {
                Ok(device) => device,
                Err(error) => {
                    self.retry_after(&format!("{error:#}"), backoff.after_failure())
                        .await;
                    continue;
                }
            };
            self.interface = Some(device.index());
            self.context.status.set_made_interface(true);
            let made = Instant::now();
            let end = self.carry(&device, tunnel).await;
            self.context.status.set_made_interface(false);
            match end {
                LinkOutcome::Stale => {
                    self.device = Some(device);
                    return;
                }
                LinkOutcome::InterfaceLost => {
                    self.remove_lost().await;
                    self.context.fd_store.forget(&self.context.name);
                    drop(device);
                    // Another program that removed it may remove the next one too.
                    sleep(remake.next(made.elapsed())).await;
                }
            }
        }
    }

    async fn carry(&mut self, device: &Device, tunnel: &Tunnel) -> LinkOutcome {
        let index = device.index();
        match &tunnel.kind {
            Kind::Ayiya(ayiya) => {
                self.context.status.set_outer(OuterReport::NoPath);
                let time = self.context.clock.now().elapsed;
                match AyiyaCarrier::new(device, tunnel, ayiya, self.stale_after, time) {
                    Some(mut carrier) => self.run(index, &mut carrier).await,
                    None => self.lacks_addresses().await,
                }
            }
            Kind::SixInFour(outer) => match SixInFourCarrier::new(device, tunnel, outer) {
                Some(mut carrier) => self.run(index, &mut carrier).await,
                None => self.lacks_addresses().await,
            },
            // Others make the interface, or the kernel carries the packets, or the kind is not known yet.
            Kind::Interface | Kind::Command { .. } | Kind::WireGuard(_) | Kind::Account(_) => {
                std::future::pending().await
            }
        }
    }

    /// Keeps a tunnel up by the kernel's `sit`; returns only if the kernel does not support it.
    async fn keep_up_by_sit(&mut self, tunnel: &Tunnel, outer: &SixInFour) {
        let Some(mut carrier) = SitCarrier::new(tunnel, outer) else {
            return self.lacks_addresses().await;
        };
        let ends = Ends {
            local: outer.local4,
            remote: outer.remote4,
        };
        let mut backoff = Backoff::default();
        let mut remake = RemakePauses::default();
        loop {
            let made = match Netlink::open() {
                Ok(netlink) => netlink.sit(&self.context.name, ends).await,
                Err(error) => Err(NoSit::Other(error)),
            };
            let index = match made {
                Ok(index) => index,
                Err(NoSit::Unsupported) => return,
                Err(error) => {
                    self.retry_after(&format!("{error:#}"), backoff.after_failure())
                        .await;
                    continue;
                }
            };
            self.interface = Some(index);
            self.context.status.set_outer(OuterReport::NoPath);
            self.context.status.set_made_interface(true);
            let made = Instant::now();
            let end = self.run(index, &mut carrier).await;
            self.context.status.set_made_interface(false);
            if matches!(end, LinkOutcome::InterfaceLost) {
                self.remove_lost().await;
            }
            // Another program that removed it may remove the next one too.
            sleep(remake.next(made.elapsed())).await;
        }
    }

    async fn retry_after(&self, reason: &str, pause: Duration) {
        let state = DriverState::Retrying(reason.to_owned());
        self.context.status.set(state);
        sleep(pause).await;
    }

    /// Reports a tunnel without addresses. The configuration guarantees them for every kind that is carried.
    async fn lacks_addresses<T>(&self) -> T {
        let reason = "its addresses are not known".to_owned();
        self.context.status.set(DriverState::Failed(reason));
        std::future::pending().await
    }

    /// The tunnel's TUN device: the one of an earlier run, or a new one. It outlives the process, so that a
    /// restart finds it with its addresses, routes and rules.
    async fn device(&mut self) -> anyhow::Result<Device> {
        let Context { name, fd_store, .. } = &self.context;
        let netlink = Netlink::open()?;
        let by_name = netlink.link_by_name(name).await?;
        let before = self.device.take();
        if let LinkByName::OurSit(index) | LinkByName::OurWireGuard(index) = by_name {
            // A tunnel of the kernel, which carried the packets before.
            netlink.delete_link(index).await?;
        }
        let device = match (by_name, before) {
            (LinkByName::OurTun(index), Some(device)) if index == device.index() => {
                return Ok(device);
            }
            (LinkByName::OurTun(_), _) => {
                Device::create(name, fd_store.take(name, Descriptor::Device))?
            }
            (LinkByName::Nothing | LinkByName::OurSit(_) | LinkByName::OurWireGuard(_), _) => {
                let device = Device::create(name, None)?;
                // Until it has its mark, the kernel removes it with this process.
                netlink.mark(device.index()).await?;
                device.make_persistent()?;
                device
            }
            (LinkByName::Foreign, _) => {
                bail!("make the TUN device {name}: another interface has that name")
            }
        };
        fd_store.hold(name, Descriptor::Device, &device);
        Ok(device)
    }

    /// Removes the interface that this tunnel has made, if it exists, under any name.
    pub(super) async fn remove_interface(&mut self) -> anyhow::Result<()> {
        let Some(index) = self.interface else {
            return Ok(());
        };
        if Netlink::open()?.is_ours(index).await? {
            self.remover.remove(index).await?;
        }
        // Only now: this may be dropped while it waits, and is called again then.
        self.interface = None;
        Ok(())
    }

    /// Removes the interface after it was lost: it may only have another name.
    async fn remove_lost(&mut self) {
        if let Err(error) = self.remove_interface().await {
            debug!("{}: {error:#}", self.context.name);
        }
    }
}
