//! The settings of the mesh: where the secret comes from, what follows from what, and what cannot hold.

use std::{net::IpAddr, path::Path};

use bruit_gossip::Secret;

use super::{Origin, SettingsError};
use crate::config::{MeshConfig, Pki};

/// Longest file that may hold a secret, bytes: the secret takes 64, the rest is white space.
const SECRET_FILE_MAX: u64 = 1024;
/// Longest name of a cluster, bytes.
const CLUSTER_NAME_MAX: usize = 64;
/// What to do about addresses that need a secret.
const GET_A_SECRET: &str = "make a secret with `bruit key generate > secret` and give every node that file with \
                            --cluster-secret-file secret";

/// The secret in the file at `path`.
///
/// # Errors
/// A sentence that names the file, when it cannot be read or holds no secret.
pub(crate) fn read_secret(path: &str) -> Result<Secret, String> {
    let path = Path::new(path);
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    if std::fs::metadata(path).map_err(cannot)?.len() > SECRET_FILE_MAX {
        return Err(format!("{} is too long for a secret; is it another file?", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    text.parse().map_err(|error| format!("{} holds no secret: {error}", path.display()))
}

/// The secret that is written as `text`.
///
/// # Errors
/// A sentence that does not repeat the text.
pub(crate) fn parse_secret(text: &str) -> Result<Secret, String> {
    text.parse().map_err(|error| format!("this is no secret: {error}"))
}

/// The secret of the place that comes first; the same place may name it only once.
pub(super) fn choose_secret(given: Vec<(Secret, String, &Origin)>) -> Result<Option<Secret>, SettingsError> {
    let rank = |origin: &Origin| match origin {
        Origin::Flag => 3,
        Origin::Environment => 2,
        Origin::File { .. } => 1,
        Origin::Default => 0,
    };
    let mut best: Option<(Secret, String, &Origin)> = None;
    for (secret, name, origin) in given {
        match &best {
            Some((_, _, first)) if rank(first) > rank(origin) => {}
            Some((_, first_name, first)) if rank(first) == rank(origin) => {
                let both = format!("{first_name} and {name} both give the cluster's secret: leave one out");
                return Err(SettingsError(vec![both]));
            }
            _ => best = Some((secret, name, origin)),
        }
    }
    Ok(best.map(|(secret, ..)| secret))
}

/// Settings of the mesh that follow from others; `given` says which ones somebody has decided.
pub(super) fn settle(mesh: &mut MeshConfig, given: impl Fn(&str) -> bool) {
    if mesh.secret.is_some() && !given("gossip-address") {
        mesh.gossip_address = Some(([0, 0, 0, 0], 4160).into());
    }
    if let Some(gossip) = mesh.gossip_address.filter(|_| !given("mesh-address")) {
        mesh.mesh_address = gossip;
        // Several nodes on one machine then need only gossip ports of their own; 0 takes a free one for both.
        if gossip.port() != 0 {
            mesh.mesh_address.set_port(gossip.port().checked_add(1).unwrap_or(4161));
        }
    }
    let nothing = Path::new("");
    mesh.pki.take_if(|Pki { ca, cert, key }| [ca, cert, key].iter().all(|path| path.as_path() == nothing));
}

/// Says what cannot hold.
pub(super) fn check(mesh: &MeshConfig, problems: &mut Vec<String>) {
    names(mesh, problems);
    if let Some(pki) = &mesh.pki {
        for (name, path) in [("ca", &pki.ca), ("cert", &pki.cert), ("key", &pki.key)] {
            if path.as_os_str().is_empty() {
                problems.push(format!(
                    "--mesh-{name}-file is missing: --mesh-ca-file, --mesh-cert-file and --mesh-key-file go \
                     together"
                ));
            }
        }
    }
    let Some(gossip) = mesh.gossip_address else {
        if !mesh.join.is_empty() {
            problems.push("--join needs a --gossip-address, which is turned off".to_owned());
        }
        return;
    };
    let quic = mesh.mesh_address;
    if gossip.port() != 0 && gossip.port() == quic.port() {
        problems.push(format!(
            "--gossip-address and --mesh-address both take UDP port {}: give them different ports",
            gossip.port()
        ));
    }
    if gossip.ip() != quic.ip() && !gossip.ip().is_unspecified() && !quic.ip().is_unspecified() {
        problems.push(format!(
            "--mesh-address is at {} and --gossip-address at {}: give both the same IP address, for peers \
             look for both at one",
            quic.ip(),
            gossip.ip()
        ));
    }
    if mesh.secret.is_none() {
        open(mesh, gossip.ip(), problems);
    }
}

fn names(mesh: &MeshConfig, problems: &mut Vec<String>) {
    let name = &mesh.cluster_name;
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > CLUSTER_NAME_MAX || !name.chars().all(is_of_a_name) {
        problems.push(format!(
            "--cluster-name is {name:?}: write 1 to {CLUSTER_NAME_MAX} letters, digits, '.', '_' and '-'"
        ));
    }
}

/// Without a secret anybody could join, so nobody but this machine may be asked to.
fn open(mesh: &MeshConfig, gossip: IpAddr, problems: &mut Vec<String>) {
    let addresses = [("gossip", gossip), ("mesh", mesh.mesh_address.ip())];
    if let Some((name, address)) = addresses.iter().find(|(_, address)| !address.is_loopback()) {
        problems.push(format!(
            "--{name}-address is at {address}, which other machines can reach, but there is no secret: \
             {GET_A_SECRET}, or stay on 127.0.0.1"
        ));
    } else if let Some(peer) = mesh.join.iter().find(|peer| is_elsewhere(peer)) {
        problems.push(format!(
            "--join {peer} is on another machine, and without a secret a node talks to its own only: \
             {GET_A_SECRET}"
        ));
    }
}

/// Whether `peer` certainly is on another machine; a name may mean anything.
fn is_elsewhere(peer: &str) -> bool {
    peer.parse::<std::net::SocketAddr>().is_ok_and(|address| !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::resolve, *};

    const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn mesh(flags: &[&str], environment: &[(&str, &str)]) -> MeshConfig {
        resolve(flags, environment).unwrap().config.mesh
    }

    fn refusal(flags: &[&str], because: &str) {
        let error = resolve(flags, &[]).unwrap_err();
        assert!(error.contains(because), "{flags:?}: {error}");
    }

    fn secret_file() -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
        let flag = format!("--cluster-secret-file={}", file.path().display());
        (file, flag)
    }

    #[test]
    fn a_node_without_a_secret_stays_on_loopback() {
        let alone = mesh(&[], &[]);
        assert_eq!(alone.gossip_address, Some(([127, 0, 0, 1], 4160).into()));
        assert_eq!(alone.mesh_address, ([127, 0, 0, 1], 4161).into());
        for flags in [
            ["--gossip-address=0.0.0.0:4160", "--cluster-name=a"],
            ["--gossip-address=:4160", "--cluster-name=a"],
            ["--gossip-address=127.0.0.1:1", "--mesh-address=0.0.0.0:2"],
            ["--join=10.0.0.1", "--cluster-name=a"],
        ] {
            refusal(
                &flags,
                "`bruit key generate > secret` and give every node that file with --cluster-secret-file",
            );
        }
        assert_eq!(
            mesh(&["--join=localhost", "--join=127.0.0.1:5"], &[]).join,
            ["localhost:4160", "127.0.0.1:5"]
        );
    }

    #[test]
    fn a_secret_opens_the_node_to_other_machines() {
        let (_kept, flag) = secret_file();
        for settled in [mesh(&[&flag], &[]), mesh(&[], &[("BRUIT_CLUSTER_SECRET", SECRET)])] {
            assert_eq!(settled.secret, Some(SECRET.parse().unwrap()));
            assert_eq!(settled.gossip_address, Some(([0, 0, 0, 0], 4160).into()));
            assert_eq!(settled.mesh_address, ([0, 0, 0, 0], 4161).into());
        }
        let home = mesh(&[&flag, "--gossip-address=127.0.0.1:4160"], &[]);
        assert_eq!(home.mesh_address, ([127, 0, 0, 1], 4161).into());
        assert_eq!(mesh(&["--cluster-secret-file="], &[("BRUIT_CLUSTER_SECRET", "")]).secret, None);
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let settings = resolve(&[], &[("BRUIT_CLUSTER_SECRET", SECRET)]).unwrap();
        let row = settings.rows.iter().find(|row| row.name == "cluster-secret").unwrap();
        assert_eq!((row.value.as_str(), &row.origin), ("(hidden)", &Origin::Environment));
        assert!(!format!("{settings:?}").contains(&SECRET[..8]));
        let typo = SECRET.to_uppercase();
        let error = resolve(&[], &[("BRUIT_CLUSTER_SECRET", &typo)]).unwrap_err();
        assert!(
            error.starts_with("BRUIT_CLUSTER_SECRET: this is no secret") && !error.contains(&typo),
            "{error}"
        );
    }

    #[test]
    fn the_secret_of_the_first_place_holds_and_one_place_gives_one() {
        let (kept, flag) = secret_file();
        let other = SECRET.replace("00", "77");
        let from_flag = mesh(&[&flag], &[("BRUIT_CLUSTER_SECRET", &other)]);
        assert_eq!(from_flag.secret, Some(SECRET.parse().unwrap()));
        let path = kept.path().to_str().unwrap();
        let environment = [("BRUIT_CLUSTER_SECRET", SECRET), ("BRUIT_CLUSTER_SECRET_FILE", path)];
        let error = resolve(&[], &environment).unwrap_err();
        assert_eq!(
            error,
            "BRUIT_CLUSTER_SECRET_FILE and BRUIT_CLUSTER_SECRET both give the cluster's secret: leave one out"
        );
    }

    #[test]
    fn a_secret_file_that_cannot_be_one_is_named() {
        refusal(&["--cluster-secret-file=/no/such"], "--cluster-secret-file: cannot read /no/such: ");
        let file = tempfile::NamedTempFile::new().unwrap();
        let flag = format!("--cluster-secret-file={}", file.path().display());
        for (content, because) in [
            ("".to_owned(), "holds no secret: a cluster secret is 64"),
            ("x".repeat(2000), "is too long for a secret"),
        ] {
            std::fs::write(file.path(), content).unwrap();
            refusal(&[&flag], because);
        }
    }

    #[test]
    fn the_quic_port_follows_the_gossip_port() {
        let quic = |flags: &[&str]| mesh(flags, &[]).mesh_address.to_string();
        assert_eq!(quic(&["--gossip-address=127.0.0.2:5160"]), "127.0.0.2:5161");
        assert_eq!(quic(&["--gossip-address=127.0.0.1:0"]), "127.0.0.1:0");
        assert_eq!(quic(&["--gossip-address=127.0.0.1:0", "--mesh-address=127.0.0.1:7"]), "127.0.0.1:7");
        refusal(&["--mesh-address=127.0.0.1:4160"], "both take UDP port 4160");
        refusal(&["--mesh-address=127.0.0.2:4161"], "the same IP address");
        assert_eq!(mesh(&["--gossip-address="], &[]).gossip_address, None);
        refusal(&["--gossip-address=", "--join=localhost"], "--join needs a --gossip-address");
    }

    #[test]
    fn certificates_come_as_three_files_or_not_at_all() {
        let all = ["--mesh-ca-file=a", "--mesh-cert-file=b", "--mesh-key-file=c"];
        let pki = Pki { ca: "a".into(), cert: "b".into(), key: "c".into() };
        assert_eq!(mesh(&all, &[]).pki, Some(pki));
        assert_eq!(mesh(&["--mesh-ca-file="], &[]).pki, None);
        refusal(&all[..2], "--mesh-key-file is missing: --mesh-ca-file, --mesh-cert-file");
    }

    #[test]
    fn a_cluster_has_a_plain_name() {
        for name in ["", "a b", "ä", &"x".repeat(65)] {
            refusal(&[&format!("--cluster-name={name}")], "1 to 64 letters");
        }
        assert_eq!(mesh(&["--cluster-name=orders.eu-1"], &[]).cluster_name, "orders.eu-1");
    }
}
