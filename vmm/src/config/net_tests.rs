// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::num::NonZeroU64;

use super::*;

fn problem(text: &str) -> String {
    match text.parse::<Net>() {
        Err(ConfigError::Net { problem, .. }) => problem,
        other => panic!("{text}: {other:?}"),
    }
}

fn backend(text: &str) -> NetBackend {
    text.parse::<Net>().unwrap_or_else(|error| panic!("{text}: {error}")).backend
}

#[test]
fn cards_are_read_as_people_write_them() {
    assert_eq!("tap=tap0".parse(), Ok(Net::new(NetBackend::Tap("tap0".into()))));
    assert_eq!(backend("fd=3"), NetBackend::Fd(vec![3]));
    assert_eq!(backend("fd=[3,4],mtu=1400"), NetBackend::Fd(vec![3, 4]));
    assert_eq!(backend("mtu=1400,fd=[7]"), NetBackend::Fd(vec![7]));
    assert_eq!(backend("passt=/run/passt.sock"), NetBackend::Passt("/run/passt.sock".into()));
    assert_eq!(backend("vhost-user=/run/net.sock,queues=2"), NetBackend::VhostUser("/run/net.sock".into()));
    assert_eq!(backend("user"), NetBackend::User(UserNet::default()));
    let forwards = "user,hostfwd=tcp:127.0.0.1:8080-:80,mtu=1400,hostfwd=udp:[::1]:53-:53,dns=192.0.2.1,dns=2001:db8::1,loopback=on";
    let user = UserNet {
        hostfwd: ["tcp:127.0.0.1:8080-:80", "udp:[::1]:53-:53"].map(|text| text.parse().unwrap()).to_vec(),
        dns: ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec(),
        loopback: true,
    };
    assert_eq!(backend(forwards), NetBackend::User(user));
}

#[test]
fn every_key_is_understood() {
    let text = "tap=tap0,mac=52:54:00:12:34:56,mtu=9000,queues=2,queue-size=512,bw-rx=100M/s,200M,bw-tx=1G,ops-rx=1000,\
                ops-tx=5K,10K,antispoof=on,ip=192.0.2.7,ip=2001:db8::7,transport=pci";
    let net: Net = text.parse().unwrap();
    let rate = |per_second, burst| Some(RateLimit { per_second: NonZeroU64::new(per_second).unwrap(), burst });
    let expected = Net {
        mac: Some("52:54:00:12:34:56".parse().unwrap()),
        mtu: Some(9000),
        queues: NonZeroU16::new(2),
        queue_size: 512,
        bw_rx: rate(100 << 20, NonZeroU64::new(200 << 20)),
        bw_tx: rate(1 << 30, None),
        ops_rx: rate(1000, None),
        ops_tx: rate(5 << 10, NonZeroU64::new(10 << 10)),
        antispoof: true,
        ip: ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().unwrap()).to_vec(),
        transport: Some(Transport::Pci),
        ..Net::new(NetBackend::Tap("tap0".into()))
    };
    assert_eq!(net, expected);
    assert!("fd=[3,4],vhost=on".parse::<Net>().unwrap().vhost && !"tap=a,vhost=off".parse::<Net>().unwrap().vhost);
    assert_eq!((net.pairs(), "fd=[3,4,5]".parse::<Net>().unwrap().pairs()), (2, 3));
}

#[test]
fn a_card_survives_json() {
    for text in [
        "tap=tap0,mac=52:54:00:12:34:56,queues=2,ip=192.0.2.7,antispoof=on",
        "fd=[3,4]",
        "passt=s",
        "vhost-user=s,queues=4",
        "tap=tap0,vhost=on",
        "user,hostfwd=tcp:[::1]:80-:80,dns=192.0.2.1",
    ] {
        let net: Net = text.parse().unwrap();
        let json = serde_json::to_string(&net).unwrap();
        assert_eq!(serde_json::from_str::<Net>(&json).unwrap(), net, "{json}");
    }
    let short = r#"{"backend":{"user":{}}}"#;
    assert_eq!(serde_json::from_str::<Net>(short).unwrap(), "user".parse().unwrap());
    for wrong in [
        r#"{"backend":{"tap":"t"},"mac":"01:00:00:00:00:00"}"#,
        r#"{"backend":{"tap":"t"},"speed":1}"#,
        r#"{"backend":{"user":{"hostfwd":["tcp:80"]}}}"#,
        r#"{"mac":"52:54:00:12:34:56"}"#,
    ] {
        assert!(serde_json::from_str::<Net>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_wrong_with_a_card_is_named_with_its_cure() {
    for (text, said) in [
        ("", "it isn't connected to anything: give tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user"),
        ("mtu=1400", "it isn't connected to anything: give tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user"),
        ("tap0", "'tap0' is not KEY=VALUE"),
        ("users", "'users' is not KEY=VALUE"),
        ("tap=", "tap has no value"),
        ("tap=a,tap=b", "tap is given twice"),
        ("tap=a,user=b", "user has no value: let it be the first word, as in user,mtu=1400"),
        (
            "tap=a,fd=3",
            "it can be connected to one thing only: give one of tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user",
        ),
        (
            "user,passt=s",
            "it can be connected to one thing only: give one of tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user",
        ),
        (
            "tap=a,speed=1",
            "there is no key 'speed': there are hostfwd, dns, loopback, tap, fd, passt, vhost-user, mac, mtu, queues, queue-size, \
             bw-rx, bw-tx, ops-rx, ops-tx, antispoof, ip, vhost, transport",
        ),
        (
            "vhost-user=s,passt=s",
            "it can be connected to one thing only: give one of tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user",
        ),
        ("vhost-user=s,vhost=on", "vhost=on: the kernel moves a tap's frames: give tap= or fd=, or leave vhost away"),
        (
            "vhost-user=s,ops-rx=5",
            "ops-rx: with vhost-user nobody would see to it, as the backend moves the frames: give one of the two",
        ),
        (
            "vhost-user=s,antispoof=on",
            "antispoof: with vhost-user nobody would see to it, as the backend moves the frames: give one of the two",
        ),
        ("tap=a,vhost=maybe", "vhost=maybe: give on or off"),
        ("passt=s,vhost=on", "vhost=on: the kernel moves a tap's frames: give tap= or fd=, or leave vhost away"),
        ("user,vhost=on", "vhost=on: the kernel moves a tap's frames: give tap= or fd=, or leave vhost away"),
        (
            "tap=a,vhost=on,bw-rx=1M",
            "bw-rx: with vhost=on nobody would see to it, as the kernel moves the frames: give one of the two",
        ),
        (
            "fd=3,vhost=on,ops-tx=5",
            "ops-tx: with vhost=on nobody would see to it, as the kernel moves the frames: give one of the two",
        ),
        (
            "tap=a,vhost=on,antispoof=on",
            "antispoof: with vhost=on nobody would see to it, as the kernel moves the frames: give one of the two",
        ),
        (
            "tap=a-name-of-16-byte",
            "tap=a-name-of-16-byte: give an interface's name: 1 to 15 bytes, without blanks and / : %",
        ),
        ("tap=tap%d", "tap=tap%d: give an interface's name: 1 to 15 bytes, without blanks and / : %"),
        ("tap=..", "tap=..: give an interface's name: 1 to 15 bytes, without blanks and / : %"),
        ("fd=x", "fd=x: give a descriptor's number from 3 on, or several as fd=[3,4]"),
        ("fd=[]", "fd=[]: give a descriptor's number from 3 on, or several as fd=[3,4]"),
        ("fd=2", "fd=2: 0, 1 and 2 are the standard streams: give a number from 3 on"),
        ("fd=-1", "fd=-1: 0, 1 and 2 are the standard streams: give a number from 3 on"),
        ("fd=[3,3]", "fd=3 is given twice: each queue pair has a descriptor of its own"),
        ("fd=[3,4],queues=3", "queues=3: there is a queue pair for each descriptor, so 2: leave queues away"),
        ("tap=a,hostfwd=tcp:80-:80", "hostfwd: belongs to a passt of the card's own: write it as user,hostfwd=…"),
        ("passt=s,dns=192.0.2.1", "dns: belongs to a passt of the card's own: write it as user,dns=…"),
        ("user,dns=one", "dns=one: give an IPv4 or IPv6 address, such as 192.0.2.1"),
        ("user,hostfwd=80", "hostfwd=80: it begins with neither tcp nor udp: write it as tcp:127.0.0.1:8080-:80"),
        (
            "user,hostfwd=tcp:127.0.0.1:80-:80,hostfwd=tcp:[::1]:80-:81",
            "hostfwd=tcp:[::1]:80-:81: port 80 is forwarded before: passt takes each one once",
        ),
        ("user,queues=2", "queues=2: passt carries one queue pair: leave queues away, or use a tap"),
        ("passt=s,queues=2", "queues=2: passt carries one queue pair: leave queues away, or use a tap"),
        ("tap=a,queues=0", "queues=0: give a number of queue pairs from 1 on"),
        ("tap=a,queues=65", "queues=65: a network card has up to 64 queue pairs"),
        ("tap=a,queue-size=3", "queue-size=3: give a power of two from 4 to 1024"),
        ("tap=a,queue-size=2048", "queue-size=2048: give a power of two from 4 to 1024"),
        ("tap=a,mtu=67", "mtu=67: give a number of bytes from 68 to 65535"),
        ("tap=a,mtu=65536", "mtu=65536: give a number of bytes from 68 to 65535"),
        ("tap=a,bw-rx=0", "bw-rx=0: give a number from 1 on, with K, M or G behind it if you like"),
        ("tap=a,ops-tx=5,x", "ops-tx=x: give a number from 1 on, with K, M or G behind it if you like"),
        ("tap=a,antispoof=maybe", "antispoof=maybe: give on or off"),
        ("tap=a,ip=192.0.2.7", "ip: says what antispoof=on allows the guest to send from: add that"),
        ("tap=a,antispoof=on,ip=192.0.2", "ip=192.0.2: give an IPv4 or IPv6 address, such as 192.0.2.1"),
        ("tap=a,transport=ccw", "transport=ccw: give mmio or pci"),
        (
            "tap=a,mac=52:54:00",
            "mac: \"52:54:00\" is no MAC address: it is six pairs of hexadecimal digits, as in 52:54:00:12:34:56",
        ),
        (
            "tap=a,mac=01:00:5e:00:00:01",
            "mac: 01:00:5e:00:00:01 is a multicast address: the first byte of a card's address is even",
        ),
        ("tap=a,mac=00:00:00:00:00:00", "mac: 00:00:00:00:00:00 is nobody's address: take one like 52:54:00:12:34:56"),
    ] {
        assert_eq!(problem(text), said, "{text}");
    }
}

#[test]
fn an_address_that_was_not_given_is_the_same_for_ever() {
    // Written out: a guest's leases and its names of interfaces depend on them.
    for (name, index, mac) in
        [("vm", 0, "be:3b:76:49:e0:ac"), ("vm", 1, "6a:43:cc:7f:9d:3d"), ("web", 0, "4a:13:35:41:82:81")]
    {
        assert_eq!(default_mac(name, index).to_string(), mac, "{name} {index}");
    }
    let mut seen: Vec<_> =
        (0..100).flat_map(|vm| (0..8).map(move |at| default_mac(&format!("vm{vm}"), at).bytes())).collect();
    assert!(seen.iter().all(|mac| mac[0] & 3 == 2));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 800);
}
