//! The same with other ways to a server: ssh with systemd, and Docker. The servers are real; `shims` stand in for ssh,
//! sudo, systemctl and docker, and act on this host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use pgpilot::demo::{Node, Scope};

use super::{Done, Hooked, hooked};

impl Hooked {
    fn put_shims(&self) {
        let shims = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/hooks/shims");
        fs::create_dir(self.directory.join("shims")).unwrap();
        for entry in fs::read_dir(shims).unwrap().flatten() {
            fs::copy(entry.path(), self.directory.join("shims").join(entry.file_name())).unwrap();
        }
        symlink(self.servers.nodes()[0].binaries().directory(), self.directory.join("programs")).unwrap();
    }

    async fn done(&self, script: &str, hook: &str, epoch: u64, node: &Node, primary: &Node) -> Done {
        let done = self.run_script(script, hook, epoch, node, primary).await;
        assert_eq!(done.status, Some(0), "{hook} of {}:\n{}", node.name(), done.said);
        done
    }

    /// A primary is killed, and comes back; another is exchanged, and comes back.
    async fn all_hooks_work(&self, script: &str) {
        let [one, two, three] = self.nodes();
        one.sql("CREATE TABLE t (n int)").await.unwrap();
        self.servers.wait_caught_up(one).await.unwrap();
        one.kill9(Scope::Postmaster).await.unwrap();
        self.done(script, "fence", 2, one, two).await;
        self.done(script, "pre_promote", 2, two, two).await;
        self.promote_two().await;
        self.done(script, "post_promote", 2, two, two).await;
        self.done(script, "rejoin", 2, one, two).await.says(": rewind");
        self.done(script, "rejoin", 2, one, two).await.says("already");
        self.is_whole(one, two, "2").await;

        self.done(script, "demote", 3, two, one).await;
        one.promote().await.unwrap();
        three.repoint(one).await.unwrap();
        self.done(script, "rejoin", 3, two, one).await.says(": as-it-is");
        self.is_whole(two, one, "2").await;
    }
}

#[tokio::test]
async fn with_ssh_and_systemd() {
    let Some(hooked) = hooked().await else { return };
    hooked.put_shims();
    hooked.set("SERVICE=test@$PGPILOT_NODE\nSERVER_USER=postgres");
    hooked.all_hooks_work("systemd-ssh.sh").await;
}

#[tokio::test]
async fn a_host_that_ssh_does_not_reach_is_fenced_only_by_switching_it_off() {
    let Some(hooked) = hooked().await else { return };
    hooked.put_shims();
    hooked.set("SERVICE=test@$PGPILOT_NODE\nSSH_USER=nobody");
    let [one, two, _] = hooked.nodes();
    let failed = hooked.run_script("systemd-ssh.sh", "fence", 2, one, two).await;
    assert_eq!(failed.status, Some(1), "{}", failed.said);
    hooked.set("host_off() { echo \"switched $PGPILOT_NODE off\" >&2; }");
    hooked.done("systemd-ssh.sh", "fence", 2, one, two).await.says("switched pg1 off");
}

#[tokio::test]
async fn with_docker() {
    let Some(hooked) = hooked().await else { return };
    hooked.put_shims();
    hooked.all_hooks_work("docker.sh").await;
}
