// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Networks, as a guest and its host see them: each in a namespace of the test's own.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use vmm::{Config, Control, Disk};

use crate::namespace::{NameServer, http_get, in_namespace, ip, make_uplink, serve_dhcp, serve_netload};
use crate::rig::{Boot, CMDLINE, Image, Running, guest_file, path, run_and_react_to_all, succeeds};

/// Of one transfer.
const BYTES: u64 = 64 << 20;

/// How many transfers there are in each direction.
fn rounds() -> usize {
    std::env::var("VMM_NET_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Lines of a script that send and receive by an address, while a disk is under load.
pub(crate) fn transfers(address: &str, disk: &str) -> String {
    let rounds = rounds();
    format!(
        "blockload {disk} 100000 1 randwrite:4096:4 > /dev/null & load=$!\n\
         i=0; while [ $i -lt {rounds} ]; do\n\
         netload send {address} {BYTES} 2 || exit 1; netload receive {address} {BYTES} 2 || exit 1; i=$((i + 1)); done\n\
         kill -0 $load && echo the disk was under load; kill $load\n"
    )
}

pub(crate) fn assert_transfers(output: &str, times: usize) {
    for direction in ["send", "receive"] {
        let seen = output.matches(&format!("netload: end {direction} bytes={BYTES} ")).count();
        assert_eq!(seen, times * rounds(), "{direction}: {output}");
    }
}

/// The process that another one has started.
fn child_of(parent: u32) -> Option<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.find_map(|number| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // `NUMBER (NAME) STATE PARENT …`, where a name may have anything in it.
        let parent_of = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()?;
        Pid::from_raw(number).filter(|_| parent_of == parent)
    })
}

fn wait_for_end(process: &OwnedFd) {
    poll(&mut [PollFd::new(process, PollFlags::IN)], None).unwrap();
}

#[test]
fn a_network_of_a_users_own_needs_no_privilege_and_outlives_its_passt() {
    in_namespace(|| {
        make_uplink();
        let _netload = serve_netload(5201);
        let _names = NameServer::start([192, 0, 2, 53]);
        let loaded = Image::empty(16 << 20).for_everybody();
        let script = Image::script(&format!(
            "udhcpc -i eth0 -n -q -t 20 || exit 1\n\
             ip address show dev eth0; ip route; cat /run/resolv.conf; cat /sys/class/net/eth0/mtu\n\
             nslookup host.test\n\
             until ip -6 address show dev eth0 scope global | grep inet6 | grep -qv tentative; do sleep 0.1; done\n\
             mkdir /tmp/www; echo hello over HTTP > /tmp/www/index.html; httpd -p 80 -h /tmp/www\n\
             netload echo 192.0.2.1:5201 100 && netload echo [2001:db8::1]:5201 100 && netload datagrams 192.0.2.1:5201 100 64\n\
             echo serves; {} echo transferred\n\
             echo waits; read line < /dev/ttyS0\n\
             until netload echo 192.0.2.1:5201 1; do sleep 0.1; done; echo is back; sleep 1000\n",
            transfers("192.0.2.1:5201", "/dev/vdc").replace('\n', "\n "),
        ));
        let net = "user,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:[::1]:8081-:80,dns=192.0.2.1,loopback=on";
        let vm = Boot::new()
            .by_nobody()
            .args(&["--net", net])
            .script(&script)
            .args(&["--disk", &format!("path={}", loaded.path)]);
        let mut vm = vm.stdin().start();
        vm.expect("serves\r\n");
        assert!(http_get("127.0.0.1:8080").contains("hello over HTTP"));
        assert!(http_get("[::1]:8081").contains("hello over HTTP"));
        vm.expect("transferred\r\n").expect("waits\r\n");

        let first = child_of(vm.child.id()).unwrap();
        kill_process(first, Signal::KILL).unwrap();
        let second = loop {
            match child_of(vm.child.id()) {
                Some(other) if other != first => break other,
                _ => std::thread::yield_now(),
            }
        };
        vm.type_in("go\n").expect("is back\r\n");

        vm.signal("TERM");
        let ended = vm.wait();
        assert_eq!(ended.status, Some(0), "{}", ended.output);
        assert!(
            ended.errors.contains("passt has ended (signal: 9 (SIGKILL)) and is started again"),
            "{}",
            ended.errors
        );
        assert!(!fs::exists(format!("/proc/{}", second.as_raw_pid())).unwrap(), "passt has outlived its VM");
        ended.assert_says("inet 192.0.2.2/24").assert_says("default via 192.0.2.1 dev eth0");
        ended.assert_says("nameserver 192.0.2.1\r\n").assert_says("Address: 192.0.2.53\r\n");
        assert_eq!(ended.output.matches("netload: end echo bytes=100 ").count(), 2, "{}", ended.output);
        assert_transfers(&ended.output, 1);
        ended.assert_says("the disk was under load");
    });
}

#[test]
fn passt_lets_nobody_at_the_hosts_loopback_and_ends_with_a_vmm_that_is_killed() {
    in_namespace(|| {
        make_uplink();
        // The router is this host itself, so that it shows where a connection to it ends.
        ip("address add 192.0.2.1/32 dev lo");
        let [router, loopback] = ["192.0.2.1:5202", "127.0.0.1:5202"].map(|at| TcpListener::bind(at).unwrap());
        let command = "udhcpc -i eth0 -n -q -t 20; netload echo 192.0.2.1:5202 1";
        let mut vm = Boot::new().args(&["--net", "user"]).say(&format!("vmm.run=\"{command}\"")).start();
        let mut called = [&router, &loopback].map(|listener| PollFd::new(listener, PollFlags::IN));
        poll(&mut called, None).unwrap();
        let [router, loopback] = called.map(|listener| listener.revents().contains(PollFlags::IN));
        assert!(router && !loopback, "the guest reaches the host's loopback");
        let passt = pidfd_open(child_of(vm.child.id()).unwrap(), PidfdFlags::empty()).unwrap();
        vm.signal("KILL");
        wait_for_end(&passt);
    });
}

/// A passt that listens at a socket.
fn start_passt(socket: &str, number: &str) -> Pid {
    // It goes to the background when it is ready.
    succeeds(Command::new("passt").args(["--quiet", "--socket", socket, "--pid", number]));
    Pid::from_raw(fs::read_to_string(number).unwrap().trim().parse().unwrap()).unwrap()
}

#[test]
fn the_link_goes_down_with_a_passt_of_another_ones_and_up_with_the_next() {
    in_namespace(|| {
        make_uplink();
        let _netload = serve_netload(5201);
        let folder = tempfile::tempdir().unwrap();
        // passt becomes somebody else than root.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let (socket, number) = (path(&folder.path().join("socket")), path(&folder.path().join("pid")));
        let first = start_passt(&socket, &number);
        let script = Image::script(
            "udhcpc -i eth0 -n -q -t 20 || exit 1\n\
             link() { cat /sys/class/net/eth0/carrier; }\n\
             netload echo 192.0.2.1:5201 10; echo is up\n\
             while [ $(link) = 1 ]; do sleep 0.1; done; echo is down\n\
             while [ $(link) = 0 ]; do sleep 0.1; done; echo is up again\n\
             netload echo 192.0.2.1:5201 10\n",
        );
        let mut vm = Boot::new().args(&["--net", &format!("passt={socket}")]).script(&script).start();
        vm.expect("is up\r\n");
        kill_process(first, Signal::KILL).unwrap();
        vm.expect("is down\r\n");
        fs::remove_file(&socket).unwrap();
        let second = start_passt(&socket, &number);
        vm.expect("is up again\r\n");
        let ended = vm.wait();
        kill_process(second, Signal::KILL).unwrap();
        assert_eq!(ended.status, Some(0), "{}", ended.errors);
        assert_eq!(ended.output.matches("netload: end echo bytes=10 ").count(), 2, "{}", ended.output);
        assert!(!ended.errors.is_empty(), "a log line tells of it");
    });
}

/// A script that sets a card up, says what it is, and uses it. The host has the first address of each network, and the guest the
/// second.
pub(crate) fn use_card(card: u32, disk: &str) -> String {
    format!(
        "for i in /sys/class/net/eth*; do grep -q 52:54:00:00:00:0{card} $i/address && eth=${{i##*/}}; done\n\
         ip link set $eth up; ip address add 198.51.100.{}/28 dev $eth\n\
         echo 0 > /proc/sys/net/ipv6/conf/$eth/accept_dad; ip -6 address add 2001:db8:{card}::2/64 dev $eth\n\
         echo card {card}: $(ls -d /sys/class/net/$eth/queues/rx-* | wc -l) queues for $(cat /sys/class/net/$eth/mtu) bytes on $(readlink -f /sys/class/net/$eth/device)\n\
         netload echo 198.51.100.{}:5201 100; netload echo [2001:db8:{card}::1]:5201 100\n\
         netload datagrams 198.51.100.{}:5201 100 1000\n{}\
         ip link set $eth down\n",
        card * 16 + 2,
        card * 16 + 1,
        card * 16 + 1,
        transfers(&format!("198.51.100.{}:5201", card * 16 + 1), disk),
    )
}

/// A script that has a card get its address by DHCP, and serves a page there until the host has read it.
fn serve_page(card: u32) -> String {
    format!(
        "for i in /sys/class/net/eth*; do grep -q 52:54:00:00:00:0{card} $i/address && eth=${{i##*/}}; done\n\
         udhcpc -i $eth -n -q -t 20 || exit 1\n\
         mkdir -p /tmp/www; echo hello over card {card} > /tmp/www/index.html; httpd -p 198.51.100.{}:80 -h /tmp/www\n\
         echo card {card} serves; read line < /dev/ttyS0; ip address flush dev $eth\n",
        card * 16 + 2
    )
}

/// Reads the page of a guest that runs [`serve_page`], and lets it go on.
fn read_page(vm: &mut Running, card: u32) {
    vm.expect(&format!("card {card} serves\r\n"));
    let page = http_get(&format!("198.51.100.{}:80", card * 16 + 2));
    assert!(page.contains(&format!("hello over card {card}")), "{page}");
    vm.type_in("go\n");
}

pub(crate) fn give_addresses(interface: &str, card: u32) {
    ip(&format!("link set {interface} up"));
    ip(&format!("address replace 198.51.100.{}/28 dev {interface}", card * 16 + 1));
    ip(&format!("address replace 2001:db8:{card}::1/64 dev {interface} nodad"));
}

pub(crate) fn mac(card: u32) -> String {
    format!("mac=52:54:00:00:00:0{card}")
}

#[test]
fn taps_of_a_users_own_work_on_both_transports_with_one_and_two_queues() {
    const CARDS: [(u32, &str, u32); 4] = [(1, "mmio", 1), (2, "mmio", 2), (3, "pci", 1), (4, "pci", 2)];
    in_namespace(|| {
        let _netload = serve_netload(5201);
        serve_dhcp();
        let loaded = Image::empty(16 << 20).for_everybody();
        let mut arguments = vec!["--cpus".to_owned(), "2".to_owned(), "--transport".to_owned(), "mmio".to_owned()];
        for (card, transport, queues) in CARDS {
            let multi_queue = if queues > 1 { "multi_queue" } else { "" };
            ip(&format!("tuntap add name tap{card} mode tap user 65534 vnet_hdr {multi_queue}"));
            give_addresses(&format!("tap{card}"), card);
            let keys = format!("tap=tap{card},queues={queues},transport={transport},{}", mac(card));
            arguments.extend(["--net".to_owned(), keys]);
        }
        let script =
            Image::script(&CARDS.map(|(card, ..)| [serve_page(card), use_card(card, "/dev/vdc")].concat()).concat());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let boot = Boot::new().by_nobody().stdin().args(&arguments).script(&script);
        let mut vm = boot.args(&["--disk", &format!("path={},queues=1", loaded.path)]).start();
        for (card, ..) in CARDS {
            read_page(&mut vm, card);
        }
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
fn a_tap_is_made_and_goes_with_its_vm_and_macvtaps_are_taken_by_their_descriptors() {
    in_namespace(|| {
        let _netload = serve_netload(5201);
        serve_dhcp();
        // The host's end of a pair has the addresses, and the macvtap is on the other one.
        ip("link add veth0 type veth peer name veth1");
        ip("link set veth1 up");
        give_addresses("veth0", 2);
        // Its number names its device, which all namespaces see, and so no other test's may have it.
        ip("link add link veth1 name macvtap0 index 701 address 52:54:00:00:00:02 type macvtap mode bridge");
        ip("link set macvtap0 mtu 1300 up");
        let script = Image::script(&format!(
            "eth=eth0; grep -q 52:54:00:00:00:01 /sys/class/net/eth0/address || eth=eth1\n\
             ip link set $eth up; ip address add 198.51.100.18/28 dev $eth; echo made; read line < /dev/ttyS0\n\
             netload echo 198.51.100.17:5201 1; echo before; read line < /dev/ttyS0\n\
             until netload echo 198.51.100.17:5201 1; do sleep 0.1; done; ip address flush dev $eth\n{}{}{}{}",
            serve_page(1),
            use_card(1, "/dev/vdc"),
            serve_page(2),
            use_card(2, "/dev/vdc")
        ));
        let loaded = Image::empty(16 << 20);
        let mut boot = Boot::new().stdin().args(&["--cpus", "2", "--net", &format!("tap=made0,mtu=1400,{}", mac(1))]);
        boot = boot.args(&["--net", &format!("fd=[8,9],{}", mac(2))]).script(&script);
        let mut vm =
            boot.args(&["--disk", &format!("path={}", loaded.path)]).with_descriptors("/dev/tap701", [8, 9]).start();
        vm.expect("made\r\n");
        give_addresses("made0", 1);
        vm.type_in("go\n").expect("before\r\n");
        ip("link set made0 down");
        give_addresses("made0", 1);
        vm.type_in("go\n");
        read_page(&mut vm, 1);
        read_page(&mut vm, 2);
        let ended = vm.wait();
        ended
            .assert_clean()
            .assert_says("card 1: 1 queues for 1400 bytes")
            .assert_says("card 2: 2 queues for 1300 bytes");
        assert_eq!(ended.output.matches("netload: end echo bytes=100 ").count(), 4, "{}", ended.output);
        assert_transfers(&ended.output, 2);
        let gone = Command::new("ip").args(["link", "show", "made0"]).output().unwrap();
        assert!(!gone.status.success(), "the tap has outlived its VM");
    });
}

#[test]
fn the_host_puts_a_link_down_and_up_and_counts() {
    in_namespace(|| {
        let mut config = Config::new(guest_file("vmlinux"));
        config.initrd = Some(guest_file("initrd"));
        config.nets = vec!["tap=tap0,antispoof=on,ip=198.51.100.2".parse().unwrap()];
        let command = "link() { cat /sys/class/net/eth0/carrier; }; ip link set eth0 up; echo is ready; \
                       while [ $(link) = 1 ]; do sleep 0.1; done; echo is down; \
                       while [ $(link) = 0 ]; do sleep 0.1; done; echo is up";
        let rootfs = format!("{},ro", path(&guest_file("rootfs.ext4")));
        config.rootfs = Some(Disk::root(&rootfs).unwrap());
        config.cmdline = Some(format!("{CMDLINE} vmm.run=\"{command}\""));
        let goes_down = |control: &Control| {
            let net = &control.nets()[0];
            assert!(net.link() && net.counters().len() == 3);
            net.set_link(false);
            assert!(!net.link());
        };
        let comes_up = |control: &Control| control.nets()[0].set_link(true);
        let seen = run_and_react_to_all(
            &config,
            vec![("is ready\r\n", Box::new(goes_down)), ("is down\r\n", Box::new(comes_up))],
        );
        assert!(seen.contains("is ready\r\nis down\r\nis up\r\n"), "{seen}");
    });
}

#[test]
fn taps_that_can_not_be_had_are_named_with_their_cure() {
    in_namespace(|| {
        ip("tuntap add name plain mode tap user 65534");
        ip("tuntap add name tun0 mode tun user 65534");
        ip("tuntap add name pi0 mode tap pi user 65534");
        ip("tuntap add name roots mode tap user 0");
        ip("link add up0 type dummy");
        let kernel = path(&guest_file("vmlinux"));
        let refused = |net: &str, says: &str| {
            let output = Boot::with(&["--kernel", &kernel]).by_nobody().args(&["--net", net]).run();
            assert_eq!(output.status, Some(2), "{net}: {}", output.errors);
            assert!(output.errors.starts_with(&format!("vmm: error: net {says}")), "{net}: {}", output.errors);
            assert_eq!(output.errors.lines().count(), 1, "{}", output.errors);
        };
        refused(
            "tap=absent",
            "tap absent: there is no such interface, and this user may not make it: as root, 'ip tuntap",
        );
        refused("tap=up0", "tap up0: is no tap, but another kind of interface");
        refused("tap=plain,queues=2", "tap plain: was made without IFF_MULTI_QUEUE, so it has one queue");
        refused("tap=tun0", "tap tun0: was made without IFF_TAP");
        refused("tap=pi0", "tap pi0: was made without IFF_NO_PI");
        refused("tap=roots", "tap roots: belongs to another user");
        refused("user", "user: passt finds no interface with a default route");
        let mut first =
            Boot::new().by_nobody().args(&["--net", "tap=plain"]).say("vmm.run=\"echo up; sleep 1000\"").start();
        first.expect("up\r\n");
        refused("tap=plain", "tap plain: is in use: another program has it open");
        first.signal("TERM");
        first.wait().assert_clean();
    });
}
