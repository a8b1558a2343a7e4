//! The rules of one node as text for nft(8): a pure function of what runs here and of who is in the cluster.
//!
//! They look at the first packet of a connection only, and remember nothing: what the proxy and the mesh carry is passed
//! over by one comparison for each packet (TCP flags, or the user of a UDP socket). Several nodes may share a machine:
//! each has a table of its own, which judges the users that this node gave and nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use nebula_domain::ids::InstanceId;
use nebula_domain::names::DeploymentName;
use nebula_domain::port::{BRIDGE_PORTS, PROGRAM_PORTS};

/// What the nodes of the cluster have that programs must not reach by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Addresses of the nodes, this one among them: programs of theirs may listen there.
    pub nodes: BTreeSet<IpAddr>,
    /// Where nodes listen for each other and for operators. An unspecified address means all of this machine.
    pub listeners: BTreeSet<SocketAddr>,
    /// Where instances listen whose deployment has a port of its own: they reach each other.
    pub fixed: BTreeMap<DeploymentName, BTreeSet<SocketAddr>>,
}

/// What one instance that runs, or is about to, may reach on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub user: u32,
    pub deployment: DeploymentName,
    /// Its own, which the others of its deployment reach too.
    pub port: Option<u16>,
    /// Of bridges to what it depends on.
    pub bridges: Vec<u16>,
}

/// Everything that the rules are made of.
pub(crate) struct Rules<'a> {
    /// A table of this node's own.
    pub table: &'a str,
    /// All that this node has given to deployments: one without a grant reaches nothing of Nebula's.
    pub users: &'a BTreeSet<u32>,
    pub grants: &'a BTreeMap<InstanceId, Grant>,
    pub cluster: &'a Cluster,
}

/// Also what reaches several programs of the machine at once.
const HERE: &str = "fib daddr type { local, broadcast, multicast, anycast }";

impl Rules<'_> {
    /// In one transaction: the table is this one from one packet to the next, or stays as it was.
    pub fn text(&self) -> String {
        let table = self.table;
        let mut text = format!("table inet {table}\ndelete table inet {table}\n");
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "table inet {} {{", self.table)?;
        set(to, "users", "uid", self.users)?;
        set(to, "allowed", "uid . inet_service", self.allowed())?;
        set(to, "guarded", INTERVALS, self.guarded())?;
        let (nodes, listeners) = (&self.cluster.nodes, self.listeners());
        let peers = self.peers();
        for (v, address, of) in VERSIONS {
            let nodes = nodes.iter().filter(|ip| of(ip));
            set(to, &format!("nodes{v}"), address, nodes)?;
            let listeners = listeners.iter().filter(|at| of(&at.ip()));
            let listeners = listeners.map(|at| format!("{} . {}", at.ip(), at.port()));
            let kind = format!("{address} . inet_service");
            set(to, &format!("listeners{v}"), &kind, listeners)?;
            let peers = peers.iter().filter(|(_, at)| of(&at.ip()));
            let peers = peers.map(|(user, at)| format!("{user} . {} . {}", at.ip(), at.port()));
            let kind = format!("uid . {address} . inet_service");
            set(to, &format!("peers{v}"), &kind, peers)?;
        }
        chain(to, "output", &self.first_packets())?;
        chain(to, "judged", &verdicts())?;
        chain(to, "refused", &REFUSED.map(str::to_owned))?;
        to.push_str("}\n");
        Ok(())
    }

    /// The user is asked for last: it takes a lock of the socket. A rule whose socket is gone by then does not match, so
    /// only what is known to be a deployment's is judged.
    fn first_packets(&self) -> Vec<String> {
        let mut rules = vec!["type filter hook output priority filter; policy accept;".to_owned()];
        if let (Some(first), Some(last)) = (self.users.first(), self.users.last()) {
            let span = match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            };
            let theirs = format!("meta skuid {span} meta skuid @users jump judged");
            rules.push(format!("tcp flags & (fin|syn|rst|ack) == syn {theirs}"));
            rules.push(format!("meta l4proto udp {theirs}"));
        }
        rules
    }

    /// User and port, at addresses of this machine.
    fn allowed(&self) -> BTreeSet<String> {
        let of = |grant: &Grant| {
            let (user, ports) = (grant.user, grant.bridges.clone());
            let ports = ports.into_iter().chain(grant.port);
            ports.map(move |port| format!("{user} . {port}"))
        };
        self.grants.values().flat_map(of).collect()
    }

    /// Ports at all addresses of this machine.
    fn guarded(&self) -> Vec<String> {
        let ranges = [PROGRAM_PORTS, BRIDGE_PORTS];
        let everywhere = self.cluster.listeners.iter();
        let everywhere = everywhere.filter(|at| at.ip().is_unspecified());
        let fixed = self.grants.values().filter_map(|grant| grant.port);
        let single: BTreeSet<u16> = everywhere
            .map(SocketAddr::port)
            .chain(fixed)
            // Intervals must not lie over each other.
            .filter(|port| ranges.iter().all(|range| !range.contains(port)))
            .collect();
        let ranges = ranges
            .iter()
            .map(|range| format!("{}-{}", range.start(), range.end()));
        ranges
            .chain(single.iter().map(ToString::to_string))
            .collect()
    }

    /// Addresses with a port, wherever they are.
    fn listeners(&self) -> BTreeSet<SocketAddr> {
        let fixed = self.cluster.fixed.values().flatten();
        let all = self.cluster.listeners.iter().chain(fixed);
        all.copied()
            .filter(|at| !at.ip().is_unspecified())
            .collect()
    }

    /// Users, and where the other instances of their deployment listen.
    fn peers(&self) -> BTreeSet<(u32, SocketAddr)> {
        let of = |grant: &Grant| {
            let places = self.cluster.fixed.get(&grant.deployment);
            let user = grant.user;
            let places = places.into_iter().flatten();
            places.map(move |at| (user, *at)).collect::<Vec<_>>()
        };
        self.grants.values().flat_map(of).collect()
    }
}

type IsOfVersion = fn(&IpAddr) -> bool;

/// Of the Internet Protocol: the end of names, the type of an address, and which are of it.
const VERSIONS: [(&str, &str, IsOfVersion); 2] = [
    ("4", "ipv4_addr", IpAddr::is_ipv4),
    ("6", "ipv6_addr", IpAddr::is_ipv6),
];

/// A type, and what a set of ranges needs beside it.
const INTERVALS: &str = "inet_service; flags interval";

/// At once and as if nobody listened: a program should not wait for a timeout.
const REFUSED: [&str; 3] = [
    "counter",
    "meta l4proto tcp reject with tcp reset",
    "reject with icmpx type port-unreachable",
];

fn verdicts() -> Vec<String> {
    let (start, end) = (PROGRAM_PORTS.start(), PROGRAM_PORTS.end());
    let mut rules = vec![
        format!("{HERE} meta skuid . th dport @allowed return"),
        "meta skuid . ip daddr . th dport @peers4 return".to_owned(),
        "meta skuid . ip6 daddr . th dport @peers6 return".to_owned(),
        format!("{HERE} th dport @guarded goto refused"),
    ];
    for (v, ip) in [("4", "ip"), ("6", "ip6")] {
        rules.push(format!("{ip} daddr . th dport @listeners{v} goto refused"));
        rules.push(format!(
            "{ip} daddr @nodes{v} th dport {start}-{end} goto refused"
        ));
    }
    rules
}

fn set(
    to: &mut String,
    name: &str,
    kind: &str,
    elements: impl IntoIterator<Item: ToString>,
) -> std::fmt::Result {
    let elements: Vec<String> = elements.into_iter().map(|one| one.to_string()).collect();
    write!(to, "  set {name} {{ type {kind};")?;
    if !elements.is_empty() {
        write!(to, " elements = {{ {} }};", elements.join(", "))?;
    }
    writeln!(to, " }}")
}

fn chain(to: &mut String, name: &str, rules: &[String]) -> std::fmt::Result {
    writeln!(to, "  chain {name} {{")?;
    for rule in rules {
        writeln!(to, "    {rule}")?;
    }
    writeln!(to, "  }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(user: u32, deployment: &str, port: Option<u16>, bridges: &[u16]) -> Grant {
        Grant {
            user,
            deployment: deployment.parse().unwrap(),
            port,
            bridges: bridges.to_vec(),
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn text(users: &[u32], grants: &[Grant], cluster: &Cluster) -> String {
        let grants = (1..).map(InstanceId).zip(grants.iter().cloned()).collect();
        Rules {
            table: "nebula_1_2",
            users: &users.iter().copied().collect(),
            grants: &grants,
            cluster,
        }
        .text()
    }

    /// What a set holds, as it is written.
    fn elements(text: &str, set: &str) -> Vec<String> {
        let begin = format!("  set {set} {{ ");
        let line = text.lines().find(|line| line.starts_with(&begin)).unwrap();
        let Some((_, elements)) = line.split_once("elements = { ") else {
            return Vec::new();
        };
        let (elements, _) = elements.split_once(" }").unwrap();
        elements.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn a_table_is_replaced_whole() {
        let text = text(&[200_001], &[], &Cluster::default());
        let begin =
            "table inet nebula_1_2\ndelete table inet nebula_1_2\ntable inet nebula_1_2 {\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("  }\n}\n"), "{text}");
    }

    #[test]
    fn a_user_reaches_its_own_ports_and_the_bridges_of_its_own_instances() {
        let grants = [
            grant(200_001, "web", Some(20_001), &[30_000, 30_001]),
            // An older release needed less.
            grant(200_001, "web", Some(20_002), &[30_000]),
            grant(200_002, "db", Some(20_003), &[]),
            grant(200_003, "job", None, &[30_001]),
        ];
        let text = text(&[200_001, 200_002, 200_003], &grants, &Cluster::default());
        assert_eq!(
            elements(&text, "allowed"),
            [
                "200001 . 20001",
                "200001 . 20002",
                "200001 . 30000",
                "200001 . 30001",
                "200002 . 20003",
                "200003 . 30001"
            ]
        );
    }

    #[test]
    fn a_user_without_an_instance_is_judged_and_reaches_nothing() {
        let text = text(&[200_009], &[], &Cluster::default());
        assert_eq!(elements(&text, "users"), ["200009"]);
        assert_eq!(elements(&text, "allowed"), [] as [&str; 0]);
        let jump = "meta skuid 200009 meta skuid @users jump judged";
        assert_eq!(text.matches(jump).count(), 2, "{text}");
    }

    #[test]
    fn without_users_no_packet_is_looked_at() {
        let text = text(&[], &[], &Cluster::default());
        assert!(!text.contains("jump"), "{text}");
    }

    #[test]
    fn all_that_nodes_give_is_guarded_and_ports_of_deployments_own_while_they_run_here() {
        let cluster = Cluster {
            listeners: [at("0.0.0.0:7600"), at("[::]:7601"), at("0.0.0.0:20010")].into(),
            ..Cluster::default()
        };
        let grants = [
            grant(200_001, "db", Some(5432), &[]),
            grant(200_002, "web", Some(20_001), &[]),
        ];
        let text = text(&[200_001, 200_002], &grants, &cluster);
        let guarded = ["20000-29999", "30000-32767", "5432", "7600", "7601"];
        assert_eq!(elements(&text, "guarded"), guarded);
        assert_eq!(elements(&text, "listeners4"), [] as [&str; 0]);
    }

    #[test]
    fn other_nodes_are_known_by_their_addresses() {
        let fixed = |places: &[&str]| places.iter().map(|place| at(place)).collect();
        let cluster = Cluster {
            nodes: ["10.0.0.1", "10.0.0.2", "fd00::2"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            listeners: [at("10.0.0.2:7601"), at("[fd00::2]:7601")].into(),
            fixed: [
                (
                    "db".parse().unwrap(),
                    fixed(&["10.0.0.1:5432", "10.0.0.2:5432", "[fd00::2]:5432"]),
                ),
                ("queue".parse().unwrap(), fixed(&["10.0.0.2:5672"])),
            ]
            .into(),
        };
        let grants = [grant(200_001, "db", Some(5432), &[])];
        let text = text(&[200_001], &grants, &cluster);
        assert_eq!(elements(&text, "nodes4"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(elements(&text, "nodes6"), ["fd00::2"]);
        assert_eq!(
            elements(&text, "listeners4"),
            [
                "10.0.0.1 . 5432",
                "10.0.0.2 . 5432",
                "10.0.0.2 . 5672",
                "10.0.0.2 . 7601"
            ]
        );
        assert_eq!(
            elements(&text, "listeners6"),
            ["fd00::2 . 5432", "fd00::2 . 7601"]
        );
        assert_eq!(
            elements(&text, "peers4"),
            ["200001 . 10.0.0.1 . 5432", "200001 . 10.0.0.2 . 5432"]
        );
        assert_eq!(elements(&text, "peers6"), ["200001 . fd00::2 . 5432"]);
    }

    #[test]
    fn what_is_allowed_is_asked_before_what_is_guarded() {
        let rules = verdicts();
        let place = |words: &str| rules.iter().position(|rule| rule.contains(words));
        assert!(place("@allowed return") < place("@guarded goto"));
        assert!(place("@peers4 return") < place("@listeners4 goto"));
        assert!(place("@peers6 return") < place("@listeners6 goto"));
        assert!(place("@allowed return").is_some());
    }
}
