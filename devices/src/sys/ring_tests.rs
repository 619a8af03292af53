// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::super::pipe::Pipe;
use super::*;
use crate::skip::{folder_on_disk, open_direct};
use crate::virtio::chain::Segment;

const SLOTS: u16 = 8;

fn ring(mem: &GuestRam) -> (Ring, EventFd) {
    let doorbell = EventFd::new(libc::EFD_CLOEXEC).unwrap();
    let setup = Setup::new(SLOTS).unwrap();
    (Ring::new(setup, SLOTS, doorbell.try_clone().unwrap(), mem.clone()).unwrap(), doorbell)
}

fn ram() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
}

fn load(ring: &mut Ring, slot: u16, mem: &GuestRam, address: u64, len: u32) {
    let segment = Segment { address: GuestAddress(address), len };
    ring.transfer(slot).unwrap().load(mem, &[segment], None).unwrap();
}

const READ: Operation = Operation::Transfer { direction: Direction::Read, offset: 0, flags: 0 };

fn next(ring: &mut Ring) -> Completion {
    loop {
        if let Some(completion) = ring.next().unwrap() {
            return completion;
        }
        ring.wait(None).unwrap();
    }
}

#[test]
fn a_slot_belongs_to_the_kernel_until_it_is_done() {
    let mem = ram();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 8192], 0).unwrap();
    let (mut ring, _doorbell) = ring(&mem);
    load(&mut ring, 3, &mem, 0x1000, 4096);
    assert!(ring.start(3, READ, &file).unwrap());
    assert!(ring.transfer(3).is_none() && ring.transfer(SLOTS).is_none());
    assert_eq!(ring.start(3, Operation::Sync, &file).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    let Completion { slot, result } = next(&mut ring);
    assert_eq!((slot, result.unwrap(), ring.operations()), (3, 4096, 0));
    assert_eq!(mem.read_obj::<[u8; 2]>(GuestAddress(0x1fff)).unwrap(), [7, 0]);
    assert!(!ring.start(3, READ, &file).unwrap(), "nothing is left");
}

#[test]
fn the_doorbell_and_a_timeout_end_a_wait() {
    let (mut ring, doorbell) = ring(&ram());
    for _ in 0..3 {
        doorbell.write(1).unwrap();
        ring.wait(None).unwrap();
        assert!(ring.next().unwrap().is_none());
    }
    ring.wait(Some(Duration::from_millis(1))).unwrap();
}

#[test]
fn a_ring_that_ends_has_nothing_in_the_kernel_any_more() {
    let mem = ram();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 1 << 20], 0).unwrap();
    for _ in 0..20 {
        let (mut ring, _doorbell) = ring(&mem);
        for slot in 0..SLOTS {
            load(&mut ring, slot, &mem, u64::from(slot) << 16, 0x8000);
            ring.start(slot, READ, &file).unwrap();
        }
        drop(ring);
        // Whatever came, came before.
        mem.write_slice(&[0; 0x80000], GuestAddress(0)).unwrap();
        let mut after = vec![1; 0x80000];
        mem.read_slice(&mut after, GuestAddress(0)).unwrap();
        assert!(after.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_ring_that_ends_waits_for_what_the_disk_is_at() {
    const LEN: u32 = 0x8_0000;
    let folder = folder_on_disk();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![7; LEN as usize]).unwrap();
    let Some(file) = open_direct(&path) else { return };
    file.sync_all().unwrap();
    let (mem, elsewhere) = (ram(), ram());
    for _ in 0..20 {
        let (mut ring, _doorbell) = self::ring(&mem);
        for slot in 0..SLOTS {
            load(&mut ring, slot, &mem, u64::from(slot) * u64::from(LEN), LEN);
            ring.start(slot, READ, &file).unwrap();
        }
        ring.submit().unwrap();
        drop(ring);
        mem.write_slice(&[0; 4 << 20], GuestAddress(0)).unwrap();
        // What the disk still had would come before this.
        let (mut ring, _doorbell) = self::ring(&elsewhere);
        for slot in 0..SLOTS {
            load(&mut ring, slot, &elsewhere, u64::from(slot) * u64::from(LEN), LEN);
            ring.start(slot, READ, &file).unwrap();
        }
        for _ in 0..SLOTS {
            assert_eq!(next(&mut ring).result.unwrap(), LEN);
        }
        let mut after = vec![1; 4 << 20];
        mem.read_slice(&mut after, GuestAddress(0)).unwrap();
        assert!(after.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_ring_that_ends_takes_back_what_the_kernel_still_has() {
    let mem = ram();
    for submits in [true, false] {
        let pipe = Pipe::new();
        let (mut ring, _doorbell) = ring(&mem);
        for slot in 0..SLOTS {
            load(&mut ring, slot, &mem, u64::from(slot) << 16, 512);
            ring.start(slot, READ, &pipe.reader).unwrap();
        }
        if submits {
            ring.submit().unwrap();
        }
        assert_eq!(ring.operations(), usize::from(SLOTS));
        drop(ring);
        pipe.fill(&[7; 512]);
        assert_eq!(pipe.drain(), [7; 512], "nobody reads it any more");
        let mut after = vec![1; 0x80000];
        mem.read_slice(&mut after, GuestAddress(0)).unwrap();
        assert!(after.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_a_pipe_never_gives_is_cancelled() {
    let Pipe { reader, writer: _writer } = Pipe::new();
    let mem = ram();
    let (mut ring, _doorbell) = ring(&mem);
    load(&mut ring, 0, &mem, 0, 4096);
    ring.start(0, READ, &reader).unwrap();
    ring.submit().unwrap();
    ring.cancel().unwrap();
    let Completion { slot, result } = next(&mut ring);
    assert_eq!((slot, result.unwrap_err().raw_os_error()), (0, Some(libc::ECANCELED)));
}
