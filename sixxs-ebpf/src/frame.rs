//! The frame that the program handles, and the kernel helpers: the only file that touches packet memory.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        bpf_check_mtu_flags,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_diff, bpf_get_socket_uid, bpf_ktime_get_coarse_ns,
        bpf_ktime_get_ns, bpf_ktime_get_tai_ns, bpf_l4_csum_replace, bpf_sk_fullsock,
        bpf_skb_adjust_room, bpf_skb_cgroup_id, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use sixxs_common::{
    address::Address,
    layout::NO_UID,
    packet::{ETHERNET_HEADER_BYTES, IPV6_HEADER_BYTES, MAX_HEADER_OFFSET, Packet},
    six_in_four,
    treatment::Fit,
};

/// A helper returned an error.
pub(crate) struct Refused;

/// The length of an array, for helpers with a 32-bit length.
const fn length<const N: usize>() -> u32 {
    const { assert!(N <= 4096) }
    #[expect(clippy::cast_possible_truncation, reason = "compared above")]
    {
        N as u32
    }
}

fn accepted(result: i64) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}

/// Nanoseconds of CLOCK_MONOTONIC, exact to a clock tick (1 to 10 ms). That is enough for ages in seconds,
/// and costs a tenth of the exact clock. Kernel 5.11.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Seconds of International Atomic Time since 1970. Kernel 6.1.
#[inline(always)]
pub(crate) fn tai_seconds() -> u64 {
    // SAFETY: no arguments.
    let ns = unsafe { bpf_ktime_get_tai_ns() };
    ns / 1_000_000_000
}

/// The exact time of the same clock, to measure microseconds.
#[inline(always)]
pub(crate) fn precise_now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The sender of a packet, as far as its socket shows it.
pub(crate) struct Sender {
    pub(crate) uid: u32,
    pub(crate) cgroup: u64,
}

/// The frame that a program handles.
pub(crate) struct Frame {
    context: TcContext,
}

impl Packet for Frame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.linear::<N>(offset)?;
        // SAFETY: `[u8; N]` has alignment 1 and lies in the linear part.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<([u8; 2], [u64; N])> {
        const { assert!(N == 5) } // the length that is read below
        if offset == 0 {
            return Some(([0; 2], words(self.linear::<40>(0)?)));
        }
        let start = self.linear::<42>(offset.checked_sub(2)?)?;
        // SAFETY: `[u8; 2]` has alignment 1 and lies in the linear part.
        let before = unsafe { *(start as *const [u8; 2]) };
        Some((before, words(start + 2)))
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> Option<u32> {
        let start = self.linear::<4>(offset)?;
        // SAFETY: four bytes from `start` lie in the linear part; they may be read unaligned.
        Some(unsafe { (start as *const u32).read_unaligned() })
    }

    /// Reads by a helper, from any part of the frame.
    #[inline(always)]
    fn peek<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset > 2 * MAX_HEADER_OFFSET {
            return None;
        }
        let mut bytes = [0; N];
        // SAFETY: the helper checks offset and length against the frame and writes N bytes at most.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.skb().cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                length::<N>(),
            )
        };
        (result == 0).then_some(bytes)
    }
}

/// Pulls the first `bytes` of the frame into the linear part. Not inlined: most inspected frames
/// have their headers there.
#[cold]
#[inline(never)]
fn pull_in(frame: &Frame, bytes: u32) -> bool {
    frame.pull(bytes).is_ok()
}

/// A mask that covers every number up to [`MAX_HEADER_OFFSET`].
#[unsafe(no_mangle)]
static SIXXS_WITHIN_REACH: u32 = MAX_HEADER_OFFSET.next_power_of_two() * 2 - 1;

/// Returns an offset up to [`MAX_HEADER_OFFSET`] unchanged. The compiler may continue with a copy that it spilled to
/// the stack before the comparison; the verifier of Linux 6.1 knows no bound for that copy. The mask is in
/// a read-only map, so the verifier knows its value. The compiler does not, and cannot remove the
/// operation.
#[inline(always)]
fn within_reach(offset: u32) -> u32 {
    // SAFETY: the static belongs to this object, and nothing writes it.
    offset & unsafe { (&raw const SIXXS_WITHIN_REACH).read_volatile() }
}

/// Reads `N` words from the linear part, where the caller has just found them to lie.
#[inline(always)]
pub(crate) fn words<const N: usize>(start: usize) -> [u64; N] {
    let mut words = [0; N];
    let mut at = 0;
    while at < N {
        // SAFETY: the callers have checked that N words from `start` lie in the linear part; they may be
        // read unaligned.
        words[at] = unsafe { ((start + at * 8) as *const u64).read_unaligned() };
        at += 1;
    }
    words
}

impl Frame {
    /// The address of `N` bytes at `offset` in the linear part of the frame; pulls them in first if they
    /// are not in it.
    #[inline(always)]
    fn linear<const N: usize>(&self, offset: u32) -> Option<usize> {
        // The compiler turns `start + 1 <= end` into `start < end`, from which the verifier learns no
        // bound.
        const { assert!(N >= 2) }
        // The verifier needs a bound.
        if offset > MAX_HEADER_OFFSET {
            return None;
        }
        let offset = within_reach(offset);
        let start = self.linear_start() + offset as usize;
        if start + N <= self.linear_end() {
            return Some(start);
        }
        if !pull_in(self, offset + length::<N>()) {
            return None;
        }
        let start = self.linear_start() + offset as usize;
        (start + N <= self.linear_end()).then_some(start)
    }

    #[inline(always)]
    pub(crate) fn new(context: TcContext) -> Self {
        Self { context }
    }

    /// The context, for aya-log's macros.
    #[inline(always)]
    pub(crate) fn context(&self) -> &TcContext {
        &self.context
    }

    #[inline(always)]
    fn linear_start(&self) -> usize {
        self.context.data()
    }

    #[inline(always)]
    fn linear_end(&self) -> usize {
        self.context.data_end()
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.as_ptr().cast()
    }

    /// A field of the frame's metadata.
    #[inline(always)]
    fn field(&self, of: impl Fn(&__sk_buff) -> u32) -> u32 {
        // SAFETY: the context is a valid `__sk_buff` while the program runs.
        of(unsafe { &*self.skb() })
    }

    /// The first word of the source, and the destination, if the frame is an IPv6 packet behind an Ethernet header without
    /// tags, and its header is in the linear part.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Option<(u64, Address)> {
        const IPV6_TYPE: u16 = 0x86dd_u16.to_be();
        const VERSION_AT: usize = ETHERNET_HEADER_BYTES as usize;
        const BYTES: usize = VERSION_AT + IPV6_HEADER_BYTES as usize;
        let start = self.linear_start();
        if start + BYTES > self.linear_end() {
            return None;
        }
        // SAFETY: the headers lie in the linear part; their words may be read unaligned.
        unsafe {
            let protocol = ((start + VERSION_AT - 2) as *const u16).read_unaligned();
            let version = *((start + VERSION_AT) as *const u8);
            let source = ((start + VERSION_AT + 8) as *const u64).read_unaligned();
            let destination = words(start + VERSION_AT + 24);
            let is_ipv6 = protocol == IPV6_TYPE && version >> 4 == 6;
            is_ipv6.then_some((source, Address::from_words(destination)))
        }
    }

    /// Index of the interface that the frame is at.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.field(|skb| skb.ifindex)
    }

    /// Index of the interface by which a forwarded frame arrived; 0 for other frames.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        self.field(|skb| skb.ingress_ifindex)
    }

    /// The packet's firewall mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.field(|skb| skb.mark)
    }

    /// Payload bytes per segment (`gso_size`), for a batch that is not segmented yet; 0 for other frames.
    /// Kernel 5.7.
    #[inline(always)]
    pub(crate) fn gso_bytes(&self) -> u32 {
        self.field(|skb| skb.gso_size)
    }

    /// Whether a VLAN tag is in the frame's metadata instead of in the frame.
    #[inline(always)]
    pub(crate) fn has_offloaded_tag(&self) -> bool {
        self.field(|skb| skb.vlan_present) != 0
    }

    /// Length of the frame without its first `bytes`: the packet's length, if these are the link layer.
    #[inline(always)]
    pub(crate) fn bytes_behind(&self, bytes: impl Into<u32>) -> u32 {
        self.context.len().saturating_sub(bytes.into())
    }

    /// The interface that the sender's socket is bound to; 0: none, or there is no socket.
    #[inline(always)]
    pub(crate) fn bound_ifindex(&self) -> u32 {
        // SAFETY: `sk` is a pointer field of the context and may be null, which is checked first. The
        // helper takes only a pointer that is not null. It returns null for a socket that is not a full
        // one (a connection request, a connection in TIME_WAIT), which is checked before the dereference.
        unsafe {
            let socket = (*self.skb()).__bindgen_anon_2.sk;
            if socket.is_null() {
                return 0;
            }
            let full = bpf_sk_fullsock(socket);
            if full.is_null() {
                0
            } else {
                (*full).bound_dev_if
            }
        }
    }

    /// Finds the sender of the packet.
    #[inline(always)]
    pub(crate) fn sender(&self) -> Sender {
        // SAFETY: `sk` is a pointer field of the context, which is only compared.
        if unsafe { (*self.skb()).__bindgen_anon_2.sk }.is_null() {
            return Sender {
                uid: NO_UID,
                cgroup: 0,
            };
        }
        // SAFETY: both helpers take only the context, and find the socket themselves.
        let (uid, cgroup) = unsafe {
            (
                bpf_get_socket_uid(self.skb()),
                bpf_skb_cgroup_id(self.skb()),
            )
        };
        Sender { uid, cgroup }
    }

    /// Asks the kernel whether the frame fits an interface's MTU: an IPv6 packet of `bytes`, or each
    /// segment of a batch. Kernel 5.12.
    #[inline(always)]
    pub(crate) fn fit(&self, ifindex: u32, bytes: u32) -> Fit {
        let batch = self.gso_bytes() != 0;
        // The helper accepts either a length or the flag for segments.
        let mut mtu = if batch { 0 } else { bytes };
        let flags = if batch {
            u64::from(bpf_check_mtu_flags::BPF_MTU_CHK_SEGS)
        } else {
            0
        };
        // SAFETY: `mtu` is a `u32` on the stack, read and written by the helper.
        match unsafe { bpf_check_mtu(self.skb().cast(), ifindex, &raw mut mtu, 0, flags) } {
            0 => Fit::Fits,
            result if result > 0 => Fit::TooBig(mtu),
            _ => Fit::NoInterface,
        }
    }

    /// Removes up to two VLAN tags.
    #[inline(always)]
    pub(crate) fn remove_tags(&self, tags: u32) -> Result<(), Refused> {
        let mut at = 0;
        while at < 3 {
            if at < tags {
                // SAFETY: takes the context alone.
                accepted(unsafe { bpf_skb_vlan_pop(self.skb()) })?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Adds an Ethernet header, all zero, before a frame that has no link layer.
    #[inline(always)]
    pub(crate) fn add_ethernet(&self) -> Result<(), Refused> {
        // SAFETY: takes the context and numbers.
        accepted(unsafe { bpf_skb_change_head(self.skb(), ETHERNET_HEADER_BYTES, 0) })
    }

    /// Makes room for `bytes` between link layer and IP header.
    #[inline(always)]
    pub(crate) fn make_room(&self, bytes: u32) -> Result<(), Refused> {
        self.adjust_room(bytes as i32, 0)
    }

    /// Makes room for an outer IPv4 header before an IPv6 packet, which becomes the inner packet. Refused if it is an
    /// inner packet already. Kernel 5.1.
    #[inline(always)]
    pub(crate) fn make_room_for_ipv4(&self) -> Result<(), Refused> {
        const FLAGS: u32 = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
        self.adjust_room(six_in_four::HEADER_BYTES as i32, FLAGS)
    }

    /// Removes an outer IPv4 header of `bytes`, behind which is an IPv6 packet. Kernel 6.3.
    #[inline(always)]
    pub(crate) fn remove_ipv4(&self, bytes: u32) -> Result<(), Refused> {
        const FLAGS: u32 = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
        self.adjust_room(-(bytes as i32), FLAGS)
    }

    /// Adds or removes bytes behind the link-layer header.
    #[inline(always)]
    fn adjust_room(&self, bytes: i32, flags: u32) -> Result<(), Refused> {
        let mode = BPF_ADJ_ROOM_MAC;
        // SAFETY: takes the context and numbers.
        accepted(unsafe { bpf_skb_adjust_room(self.skb(), bytes, mode, flags.into()) })
    }

    /// Clears the firewall mark: it is for the inner packet.
    #[inline(always)]
    pub(crate) fn clear_mark(&self) {
        // SAFETY: the context is a valid `__sk_buff`, and its mark is writable.
        unsafe { (*self.skb()).mark = 0 };
    }

    /// Whether the frame carries IPv4, by its EtherType or the kernel's knowledge of the interface.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.field(|skb| skb.protocol) == u32::from(0x0800_u16.to_be())
    }

    /// Whether the frame carries IPv6, in the same way.
    #[inline(always)]
    pub(crate) fn is_ipv6(&self) -> bool {
        self.field(|skb| skb.protocol) == u32::from(0x86dd_u16.to_be())
    }

    /// Whether the link-layer destination is this host (`PACKET_HOST`).
    #[inline(always)]
    pub(crate) fn is_for_this_host(&self) -> bool {
        self.field(|skb| skb.pkt_type) == 0
    }

    /// Truncates the frame to `bytes`; a batch for segmentation offload becomes a plain frame.
    #[inline(always)]
    pub(crate) fn cut(&self, bytes: u32) -> Result<(), Refused> {
        // SAFETY: takes the context and numbers.
        accepted(unsafe { bpf_skb_change_tail(self.skb(), bytes, 0) })
    }

    /// Pulls the first `bytes` into the linear part.
    #[inline(always)]
    pub(crate) fn pull(&self, bytes: u32) -> Result<(), Refused> {
        // SAFETY: takes the context and a number.
        accepted(unsafe { bpf_skb_pull_data(self.skb(), bytes) })
    }

    /// The one's complement sum of `N` bytes at `offset`, added to `seed`; `N` is a multiple of 4 and at
    /// most 512, the helper's limit.
    #[inline(always)]
    pub(crate) fn sum<const N: usize>(&self, offset: u32, seed: u32) -> Result<u32, Refused> {
        const { assert!(N.is_multiple_of(4) && N <= 512) }
        if offset > 2 * MAX_HEADER_OFFSET {
            return Err(Refused);
        }
        let start = self.linear_start() + offset as usize;
        if start + N > self.linear_end() {
            return Err(Refused);
        }
        // SAFETY: N bytes from `start` lie in the frame, by the comparison above; the helper only reads.
        let sum = unsafe {
            bpf_csum_diff(
                core::ptr::null_mut(),
                0,
                start as *mut u32,
                length::<N>(),
                seed,
            )
        };
        // An error is negative; a sum fits in 32 bits.
        u32::try_from(sum).map_err(|_| Refused)
    }

    /// Overwrites bytes of a received frame at `offset`, whose checksum the network card may have computed.
    #[inline(always)]
    pub(crate) fn rewrite<const N: usize>(
        &self,
        offset: u32,
        bytes: &[u8; N],
    ) -> Result<(), Refused> {
        self.store_with(offset, bytes, BPF_F_RECOMPUTE_CSUM)
    }

    /// Adapts the checksum of the upper layer at `offset` to two bytes that change. Where the network card is to
    /// compute it, it stays.
    #[inline(always)]
    pub(crate) fn replace_in_sum(
        &self,
        offset: u32,
        from: [u8; 2],
        to: [u8; 2],
    ) -> Result<(), Refused> {
        let value = |bytes| u64::from(u16::from_ne_bytes(bytes));
        // SAFETY: takes the context and numbers, and checks the offset. The last one is the size of both values.
        accepted(unsafe { bpf_l4_csum_replace(self.skb(), offset, value(from), value(to), 2) })
    }

    /// Overwrites bytes at `offset`.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(
        &self,
        offset: u32,
        bytes: &[u8; N],
    ) -> Result<(), Refused> {
        self.store_with(offset, bytes, 0)
    }

    #[inline(always)]
    fn store_with<const N: usize>(
        &self,
        offset: u32,
        bytes: &[u8; N],
        flags: u32,
    ) -> Result<(), Refused> {
        let from = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the helper reads N bytes from `bytes`, and checks offset and length against the frame.
        accepted(unsafe {
            bpf_skb_store_bytes(self.skb(), offset, from, length::<N>(), flags.into())
        })
    }
}
