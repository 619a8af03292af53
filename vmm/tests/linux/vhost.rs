// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Networks whose frames somebody else moves: the kernel's vhost-net, and another process by vhost-user.

use std::fs::{self, File, OpenOptions};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use devices::GuestRam;
use devices::bus::BusDevice;
use devices::virtio::mock::{INDIRECT, MockDriver, NEXT, ram, readable};
use devices::virtio::net::{Backend, Net, NetOptions};
use devices::virtio::transport::mmio::MmioTransport;
use vm_memory::{Bytes, GuestAddress};
use vmm::{Config, Control, Disk};
use vmm_sys_util::eventfd::EventFd;

use crate::namespace::{in_namespace, ip, serve_netload};
use crate::net::{assert_transfers, give_addresses, mac, transfers, use_card};
use crate::rig::{Boot, CMDLINE, Image, guest_file, path, run_and_react_to_all};

#[path = "../../../devices/tests/vhost_user/mod.rs"]
mod bridge;

/// How many threads the kernel has for rings of a process.
fn kernel_threads(process: u32) -> usize {
    let name = format!("vhost-{process}\n");
    let tasks = fs::read_dir("/proc").unwrap().flatten();
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    // Before Linux 6.4 they are processes of the kernel's, and since then threads of the process.
    let all = tasks.chain(threads).filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    all.filter(|comm| *comm == name).count()
}

/// How often the thread of a card's first pair has slept.
fn sleeps(process: u32, card: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    let name = format!("{card} q0\n");
    let mut named = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap() == name);
    let status = fs::read_to_string(named.next().unwrap().join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn the_kernel_moves_frames_on_both_transports_with_one_and_two_queues() {
    const CARDS: [(u32, &str, u32); 4] = [(1, "mmio", 1), (2, "mmio", 2), (3, "pci", 1), (4, "pci", 2)];
    in_namespace(|| {
        let _netload = serve_netload(5201);
        let loaded = Image::empty(16 << 20);
        let mut arguments = vec!["--cpus".to_owned(), "2".to_owned(), "--transport".to_owned(), "mmio".to_owned()];
        for (card, transport, queues) in CARDS {
            let multi_queue = if queues > 1 { "multi_queue" } else { "" };
            // One without a header: then the kernel makes it.
            let header = if card == 3 { "" } else { "vnet_hdr" };
            ip(&format!("tuntap add name tap{card} mode tap {header} {multi_queue}"));
            give_addresses(&format!("tap{card}"), card);
            let keys = format!("tap=tap{card},vhost=on,queues={queues},transport={transport},{}", mac(card));
            arguments.extend(["--net".to_owned(), keys]);
        }
        let script = format!(
            "echo waits; read line < /dev/ttyS0; {}echo done; read line < /dev/ttyS0\n",
            CARDS.map(|(card, ..)| use_card(card, "/dev/vdc")).concat()
        );
        let script = Image::script(&script);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let boot = Boot::new().stdin().args(&arguments).script(&script);
        let mut vm = boot.args(&["--disk", &format!("path={},queues=1", loaded.path)]).start();
        vm.expect("waits\r\n");
        assert_eq!(kernel_threads(vm.child.id()), 6);
        vm.type_in("go\n").expect("done\r\n");
        // On PCI, not even interrupts come by us; on MMIO, a thread passes each one on.
        let [mmio, pci] = ["net0", "net2"].map(|card| sleeps(vm.child.id(), card));
        assert!(pci * 20 < mmio, "{pci} on PCI, {mmio} on MMIO");
        vm.type_in("go\n");
        let ended = vm.wait();
        ended.assert_clean();
        for (card, transport, queues) in CARDS {
            let place = if transport == "pci" { "/sys/devices/pci0000:00/" } else { "/sys/devices/" };
            ended.assert_says(&format!("card {card}: {queues} queues for 1500 bytes on {place}"));
        }
        assert_eq!(ended.output.matches("netload: end echo bytes=100 ").count(), 8, "{}", ended.output);
        assert_eq!(ended.output.matches("sent=100 received=100").count(), 4, "{}", ended.output);
        assert_transfers(&ended.output, 4);
    });
}

#[test]
fn the_kernel_moves_frames_of_a_macvtap_by_its_descriptors() {
    in_namespace(|| {
        let _netload = serve_netload(5201);
        ip("link add veth0 type veth peer name veth1");
        ip("link set veth1 up");
        give_addresses("veth0", 2);
        // Its number names its device, which all namespaces see, and so no other test's may have it.
        ip("link add link veth1 name macvtap0 index 702 address 52:54:00:00:00:02 type macvtap mode bridge");
        ip("link set macvtap0 up");
        let loaded = Image::empty(16 << 20);
        let script = Image::script(&use_card(2, "/dev/vdc"));
        let net = format!("fd=[8,9],vhost=on,{}", mac(2));
        let boot = Boot::new().args(&["--cpus", "2", "--net", &net]).script(&script);
        let boot = boot.args(&["--disk", &format!("path={}", loaded.path)]);
        let ended = boot.with_descriptors("/dev/tap702", [8, 9]).run();
        ended.assert_clean().assert_says("card 2: 2 queues");
        assert_transfers(&ended.output, 1);
    });
}

#[test]
fn a_card_of_the_kernels_outlives_its_driver_and_its_link() {
    for transport in ["mmio", "pci"] {
        in_namespace(move || {
            let _netload = serve_netload(5201);
            ip("tuntap add name tap1 mode tap vnet_hdr multi_queue");
            give_addresses("tap1", 1);
            let mut config = Config::new(guest_file("vmlinux"));
            config.initrd = Some(guest_file("initrd"));
            config.cpus = 2;
            config.memory = if transport == "pci" { "512M,shared=on" } else { "512M" }.parse().unwrap();
            config.nets = vec![format!("tap=tap1,vhost=on,queues=2,transport={transport}").parse().unwrap()];
            config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
            let script = Image::script(&format!(
                "link() {{ cat /sys/class/net/eth0/carrier; }}\n\
                 up() {{ ip link set eth0 up; ip address add 198.51.100.18/28 dev eth0; }}\n\
                 card=$(basename $(readlink -f /sys/class/net/eth0/device)); cd /sys/bus/virtio/drivers/virtio_net\n\
                 up; netload echo 198.51.100.17:5201 100; echo is ready\n\
                 while [ $(link) = 1 ]; do sleep 0.1; done; echo is down\n\
                 while [ $(link) = 0 ]; do sleep 0.1; done; echo is up\n\
                 netload echo 198.51.100.17:5201 100\n\
                 for i in 1 2 3; do echo $card > unbind; echo $card > bind; up; netload echo 198.51.100.17:5201 100; done\n\
                 {}echo is last; while [ $(link) = 1 ]; do sleep 0.1; done; echo is gone\n",
                transfers("198.51.100.17:5201", "/dev/vdc"),
            ));
            let loaded = Image::empty(16 << 20);
            config.disks = vec![
                format!("path={},readonly=on", script.path).parse().unwrap(),
                format!("path={},queues=1", loaded.path).parse().unwrap(),
            ];
            config.cmdline = Some(format!("{CMDLINE} vmm.run=\"sh /dev/vdb\""));
            let goes_down = |control: &Control| control.nets()[0].set_link(false);
            let comes_up = |control: &Control| {
                let net = &control.nets()[0];
                // What the kernel moves isn't counted here.
                assert_eq!([0, 1].map(|queue| net.counters()[queue].frames), [0, 0]);
                net.set_link(true);
            };
            let seen = run_and_react_to_all(
                &config,
                vec![
                    ("is ready\r\n", Box::new(goes_down)),
                    ("is down\r\n", Box::new(comes_up)),
                    ("is last\r\n", Box::new(|_| ip("link delete tap1"))),
                ],
            );
            assert!(seen.contains("is ready\r\nis down\r\nis up\r\n"), "{transport}: {seen}");
            assert_eq!(seen.matches("netload: end echo bytes=100 ").count(), 5, "{transport}: {seen}");
            assert!(seen.contains("is last\r\nis gone\r\n"), "{transport}: {seen}");
            assert_transfers(&seen, 1);
        });
    }
}

/// Opens a tap with so many queues, as a backend wants it: with virtio headers of twelve bytes.
fn open_tap(name: &str, queues: u32) -> Vec<File> {
    let open = |_| {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: every field of the structure is a number or a union of numbers, for which zero is a value.
        #[expect(unsafe_code, reason = "a structure of numbers")]
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let size = 12;
        // SAFETY: the request reads and fills a structure of this kind, which lives on this stack.
        #[expect(unsafe_code, reason = "a tap is made by an ioctl")]
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        // SAFETY: the request reads an integer, which lives on this stack.
        #[expect(unsafe_code, reason = "what a tap is told is an ioctl")]
        let told = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        assert_eq!((made, told), (0, 0));
        file
    };
    (0..queues).map(open).collect()
}

/// A backend that listens at a path for the first one who comes, and is gone when that one is; gives its socket, to end it by.
fn serve_vhost_user(path: &Path, wires: &[File]) -> Receiver<UnixStream> {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    let wires = wires.iter().map(|wire| wire.try_clone().unwrap()).collect();
    let (begun, beginning) = channel();
    thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        drop(listener);
        begun.send(stream.try_clone().unwrap()).unwrap();
        bridge::serve(stream, wires, bridge::FEATURES | bridge::PROTOCOL_FEATURES, bridge::MQ).join().unwrap();
    });
    beginning
}

#[test]
fn another_process_moves_frames_and_the_link_follows_it() {
    const CARDS: [(u32, &str, u32); 2] = [(1, "mmio", 1), (2, "pci", 2)];
    in_namespace(|| {
        let _netload = serve_netload(5201);
        let folder = tempfile::tempdir().unwrap();
        let loaded = Image::empty(16 << 20);
        let mut arguments =
            ["--cpus", "2", "--transport", "mmio", "--memory", "512M,shared=on"].map(str::to_owned).to_vec();
        let mut backends = Vec::new();
        for (card, transport, queues) in CARDS {
            let socket = folder.path().join(format!("socket{card}"));
            let wires = open_tap(&format!("tap{card}"), queues);
            backends.push((serve_vhost_user(&socket, &wires), socket.clone(), wires));
            give_addresses(&format!("tap{card}"), card);
            let keys = format!("vhost-user={},queues={queues},transport={transport},{}", path(&socket), mac(card));
            arguments.extend(["--net".to_owned(), keys]);
        }
        let script = Image::script(&format!(
            "{}link() {{ cat /sys/class/net/$eth/carrier; }}\n\
             ip link set $eth up; echo is up\n\
             while [ $(link) = 1 ]; do sleep 0.1; done; echo is down\n\
             while [ $(link) = 0 ]; do sleep 0.1; done; echo is up again\n\
             netload echo 198.51.100.33:5201 100; {}",
            CARDS.map(|(card, ..)| use_card(card, "/dev/vdc")).concat(),
            transfers("198.51.100.33:5201", "/dev/vdc"),
        ));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let boot = Boot::new().args(&arguments).script(&script);
        let mut vm = boot.args(&["--disk", &format!("path={},queues=1", loaded.path)]).start();
        vm.expect("is up\r\n");
        let (first, socket, wires) = &backends[1];
        first.recv().unwrap().shutdown(Shutdown::Both).unwrap();
        vm.expect("is down\r\n");
        let _second = serve_vhost_user(socket, wires);
        vm.expect("is up again\r\n");
        let ended = vm.wait();
        assert_eq!(ended.status, Some(0), "{}", ended.errors);
        assert!(ended.errors.contains("the link is down, as its backend is gone"), "{}", ended.errors);
        assert_eq!(ended.errors.lines().count(), 1, "{}", ended.errors);
        for (card, transport, queues) in CARDS {
            let place = if transport == "pci" { "/sys/devices/pci0000:00/" } else { "/sys/devices/" };
            ended.assert_says(&format!("card {card}: {queues} queues for 1500 bytes on {place}"));
        }
        assert_eq!(ended.output.matches("netload: end echo bytes=100 ").count(), 5, "{}", ended.output);
        assert_transfers(&ended.output, 3);
    });
}

/// A card of the kernel's, as a guest without a kernel sees it: its registers, its memory, and its interrupt.
struct Card {
    transport: MmioTransport,
    mem: GuestRam,
    line: EventFd,
}

impl Card {
    fn new(tap: File) -> Self {
        let vhost = OpenOptions::new().read(true).write(true).open("/dev/vhost-net").unwrap();
        let backend = Backend::VhostTap { file: tap, vnet_header: true, vhost };
        let net = Net::new("net", vec![backend], NetOptions::new("52:54:00:00:00:01".parse().unwrap())).unwrap();
        let (mem, line) = (ram(1 << 20), EventFd::new(0).unwrap());
        let raised = Box::new(line.try_clone().unwrap());
        Self { transport: MmioTransport::new(Box::new(net), mem.clone(), raised).unwrap(), mem, line }
    }

    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn status(&self) -> u32 {
        let mut status = [0; 4];
        self.transport.read(0x70, &mut status);
        u32::from_le_bytes(status)
    }

    /// Resets it, and brings it up with both queues of its pair.
    fn drivers(&self) -> [MockDriver; 2] {
        self.write(0x70, 0);
        self.mem.write_slice(&[0; 0x4000], GuestAddress(0)).unwrap();
        for (register, value) in [(0x70, 1), (0x70, 3), (0x24, 0), (0x20, 1 << 28), (0x24, 1), (0x20, 1), (0x70, 11)] {
            self.write(register, value);
        }
        let drivers = [0u32, 1].map(|index| {
            let driver = MockDriver::new(&self.mem, 0x2000 * u64::from(index), 64);
            let config = driver.config;
            let parts = [(0x80, config.descriptor_table), (0x90, config.avail_ring), (0xa0, config.used_ring)];
            self.write(0x30, index);
            self.write(0x38, 64);
            parts.iter().for_each(|(register, address)| self.write(*register, *address as u32));
            self.write(0x44, 1);
            driver
        });
        self.write(0x70, 15);
        assert_eq!(self.status(), 15);
        drivers
    }

    fn sends(&self, driver: &mut MockDriver) {
        let head = driver.submit(&[readable(0x8000, 12), readable(0x9000, 60)]);
        self.write(0x50, 1);
        loop {
            if let Some(used) = driver.take_used() {
                return assert_eq!(used, (head.into(), 0));
            }
            self.line.read().unwrap();
        }
    }
}

#[test]
fn a_ring_that_lies_to_the_kernel_asks_for_a_reset_which_mends_it() {
    type Lie = (&'static str, fn(&mut MockDriver));
    const LIES: [Lie; 6] = [
        ("an index that jumps", |driver| driver.set_avail_index(driver.avail_index().wrapping_add(1000))),
        ("a head that is none", |driver| driver.offer(64)),
        ("a buffer outside of memory", |driver| _ = driver.submit(&[readable(1 << 40, 100)])),
        ("a buffer that wraps", |driver| _ = driver.submit(&[readable(u64::MAX - 10, 100)])),
        ("a table that is none", |driver| {
            driver.descriptor(9, 0x8001, 5, INDIRECT, 0);
            driver.offer(9);
        }),
        ("a chain without an end", |driver| {
            (0..64).for_each(|at| driver.descriptor(at, 0x8000, 1, NEXT, (at + 1) % 64));
            driver.offer(0);
        }),
    ];
    in_namespace(|| {
        let card = Card::new(open_tap("tap0", 1).remove(0));
        ip("link set tap0 up");
        for (name, lie) in LIES {
            for queue in [1, 0] {
                let mut drivers = card.drivers();
                card.sends(&mut drivers[1]);
                lie(&mut drivers[queue]);
                card.write(0x50, queue as u32);
                // The kernel looks at buffers for frames when one comes.
                ip("link set tap0 down");
                ip("link set tap0 up");
                while card.status() & 0x40 == 0 {
                    card.line.read().unwrap();
                }
                println!("{name}, queue {queue}: found");
            }
        }
        let mut drivers = card.drivers();
        card.sends(&mut drivers[1]);
    });
}
