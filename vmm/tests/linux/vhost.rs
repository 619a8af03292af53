// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Networks whose frames somebody else moves: the kernel's vhost-net.

use std::fs;

use vmm::{Config, Control, Disk};

use crate::namespace::{in_namespace, ip, serve_netload};
use crate::net::{assert_transfers, give_addresses, mac, transfers, use_card};
use crate::rig::{Boot, CMDLINE, Image, guest_file, path, run_and_react_to_all};

/// How many threads the kernel has for rings of a process.
fn kernel_threads(process: u32) -> usize {
    let name = format!("vhost-{process}\n");
    let tasks = fs::read_dir("/proc").unwrap().flatten();
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    // Before Linux 6.4 they are processes of the kernel's, and since then threads of the process.
    let all = tasks.chain(threads).filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    all.filter(|comm| *comm == name).count()
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
            "echo waits; read line < /dev/ttyS0; {}",
            CARDS.map(|(card, ..)| use_card(card, "/dev/vdc")).concat()
        );
        let script = Image::script(&script);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let boot = Boot::new().stdin().args(&arguments).script(&script);
        let mut vm = boot.args(&["--disk", &format!("path={},queues=1", loaded.path)]).start();
        vm.expect("waits\r\n");
        assert_eq!(kernel_threads(vm.child.id()), 6);
        vm.type_in("go\n");
        let ended = vm.wait();
        ended.assert_clean();
        for (card, transport, queues) in CARDS {
            let place = if transport == "pci" { "/sys/devices/pci0000:00/" } else { "/sys/devices/" };
            ended.assert_says(&format!("card {card}: {queues} queues on {place}"));
        }
        assert_eq!(ended.output.matches("netload: end echo bytes=100 ").count(), 8, "{}", ended.output);
        assert_eq!(ended.output.matches("sent=100 received=100").count(), 4, "{}", ended.output);
        assert_transfers(&ended.output, 4);
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
                 {}",
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
                vec![("is ready\r\n", Box::new(goes_down)), ("is down\r\n", Box::new(comes_up))],
            );
            assert!(seen.contains("is ready\r\nis down\r\nis up\r\n"), "{transport}: {seen}");
            assert_eq!(seen.matches("netload: end echo bytes=100 ").count(), 5, "{transport}: {seen}");
            assert_transfers(&seen, 1);
        });
    }
}
