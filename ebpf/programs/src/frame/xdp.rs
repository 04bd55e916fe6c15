//! Packet access of XDP programs: direct, with a bounds check before each access.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_md;
use sluice_packet::checksum::Delta;
use sluice_packet::l4::Kind;

use super::{Changed, Frame};

/// Limit of offsets. The verifier rejects an access at an offset without a small known maximum;
/// headers end below it.
const MAX_OFFSET: usize = 0x1ff;

/// A packet at an XDP hook.
#[derive(Clone, Copy)]
pub struct Xdp {
    ctx: *mut xdp_md,
}

impl Xdp {
    /// The packet of a program's context.
    ///
    /// # Safety
    /// `ctx` is the context of the running program, and the value is not used after the run.
    #[inline(always)]
    pub unsafe fn new(ctx: *mut xdp_md) -> Xdp {
        Xdp { ctx }
    }

    /// The context, for global functions.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut xdp_md {
        self.ctx
    }

    /// Address of the N bytes at `offset`, or `None` if the packet ends before them.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<*mut [u8; N]> {
        // SAFETY: a local variable. Volatile: the compiler would otherwise use an earlier comparison of
        // the same offset, which the verifier does not relate to this one.
        let offset = unsafe { (&raw const offset).read_volatile() } as usize;
        if offset > MAX_OFFSET {
            return None;
        }
        // SAFETY: see `new`.
        let (data, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        let start = data + offset;
        if start + N > end { None } else { Some(start as *mut [u8; N]) }
    }
}

/// Copies byte by byte. A copy of the whole array reads all of it before it writes, and keeps the
/// bytes, which the target cannot combine for lack of alignment, on the stack.
///
/// # Safety
/// The arrays are valid and do not overlap.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const [u8; N], to: *mut [u8; N]) {
    for i in 0..N {
        // SAFETY: `i` is in the bounds of both arrays.
        unsafe { to.cast::<u8>().add(i).write_volatile(from.cast::<u8>().add(i).read_volatile()) };
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.cast()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.ctx).data_end - (*self.ctx).data }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// Tags are part of the frame at this hook, and its EtherType is then not IP.
    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        false
    }

    /// Segments are merged only after this hook.
    #[inline(always)]
    fn segment_len(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        let Some(bytes) = self.bytes(offset) else { return false };
        // SAFETY: `bytes` has checked that the N bytes are part of the packet.
        unsafe { copy(bytes, to) };
        true
    }

    #[inline(always)]
    fn store<const N: usize>(&self, offset: u32, from: &[u8; N]) -> bool {
        let Some(bytes) = self.bytes(offset) else { return false };
        // SAFETY: as in `load`.
        unsafe { copy(from, bytes) };
        true
    }

    /// Checksums are complete at this hook, so that a change of either part has the same effect.
    #[inline(always)]
    fn update_checksum(&self, offset: u32, delta: Delta, _changed: Changed, kind: Kind) -> bool {
        let mut field = [0; 2];
        if !self.load(offset, &mut field) {
            return false;
        }
        let field = if kind == Kind::Udp { delta.apply_udp(field) } else { delta.apply(field) };
        self.store(offset, &field)
    }
}
