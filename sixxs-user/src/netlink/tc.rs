//! Traffic control for old kernels: the clsact qdisc and its filters.

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};
use sixxs_core::types::IfIndex;

use super::Netlink;

/// One of the two hooks of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// For incoming packets.
    Ingress,
    /// For outgoing packets.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS)`.
    const fn parent(self) -> TcHandle {
        TcHandle {
            major: 0xffff,
            minor: match self {
                Self::Ingress => 0xfff2,
                Self::Egress => 0xfff3,
            },
        }
    }
}

/// A filter on clsact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `bpf`, `flower`, …
    pub kind: String,
    /// Lower runs first.
    pub priority: u16,
    /// Its handle; 0 in the head entry that each priority has in a dump.
    pub handle: u32,
    /// The ID of its program, if it is a `bpf` filter.
    pub program: Option<u32>,
}

impl Netlink {
    /// The filters at one hook of an interface; none if it has no clsact.
    pub async fn filters(
        &self,
        interface: IfIndex,
        direction: Direction,
    ) -> anyhow::Result<Vec<Filter>> {
        let mut request = TcMessage::default();
        request.header.index = i32::try_from(interface.0).context("interface index")?;
        request.header.parent = direction.parent();
        let answers = self
            .request(
                RouteNetlinkMessage::GetTrafficFilter(request),
                NLM_F_REQUEST | NLM_F_DUMP,
            )
            .await
            .with_context(|| format!("list the filters of interface {interface}"))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(filter(&message)),
                _ => None,
            })
            .collect())
    }

    /// Whether an interface has a clsact or ingress qdisc.
    pub async fn has_clsact(&self, interface: IfIndex) -> anyhow::Result<bool> {
        let mut request = TcMessage::default();
        request.header.index = i32::try_from(interface.0).context("interface index")?;
        let answers = self
            .request(
                RouteNetlinkMessage::GetQueueDiscipline(request),
                NLM_F_REQUEST | NLM_F_DUMP,
            )
            .await
            .with_context(|| format!("list the qdiscs of interface {interface}"))?;
        Ok(answers.into_iter().any(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) => {
                u32::try_from(message.header.index) == Ok(interface.0)
                    && message.header.parent == TcHandle::CLSACT
            }
            _ => false,
        }))
    }

    /// Removes the clsact qdisc of an interface, and with it every filter on it.
    pub async fn delete_clsact(&self, interface: IfIndex) -> anyhow::Result<()> {
        let mut request = TcMessage::default();
        request.header.index = i32::try_from(interface.0).context("interface index")?;
        request.header.parent = TcHandle::CLSACT;
        request.header.handle = TcHandle {
            major: 0xffff,
            minor: 0,
        };
        request
            .attributes
            .push(TcAttribute::Kind("clsact".to_owned()));
        self.request(
            RouteNetlinkMessage::DelQueueDiscipline(request),
            NLM_F_REQUEST | NLM_F_ACK,
        )
        .await
        .with_context(|| format!("delete the clsact qdisc of interface {interface}"))?;
        Ok(())
    }
}

fn filter(message: &TcMessage) -> Filter {
    let kind = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
    let options = message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.as_slice(),
            _ => &[],
        });
    let mut programs = options.filter_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => Some(*number),
        _ => None,
    });
    let handle = message.header.handle;
    Filter {
        kind: kind.unwrap_or_default(),
        // tcm_info: priority in the upper half, protocol in the lower.
        priority: u16::try_from(message.header.info >> 16).unwrap_or_default(),
        handle: u32::from(handle.major) << 16 | u32::from(handle.minor),
        program: programs.next(),
    }
}
