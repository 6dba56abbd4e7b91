//! How several instances of pgpilot agree.

use super::*;
use crate::config::scalar::{EtcdUrl, Peer, Prefix};
use crate::config::units::Secret;
use crate::config::value::List;

section! {
    /// Several instances of pgpilot before the same nodes agree through etcd (3.4 or newer): one of them decides about the
    /// primary, all follow what it has decided, and who cannot reach etcd stops writing before another may be promoted.
    /// Without this section pgpilot is alone, and keeps its record in `failover.state_file`. A change needs a restart.
    Coordination [] {
        /// The members of the etcd cluster, tried in turn.
        etcd: List<EtcdUrl>, required "[\"http://10.0.0.11:2379\", \"http://10.0.0.12:2379\", \"http://10.0.0.13:2379\"]";
        /// What the names of pgpilot's keys begin with: instances with the same prefix belong together.
        prefix: Prefix, default "\"/pgpilot/\"";
        /// What this instance is called towards operators.
        name: String, unset "the name of the host", example "\"proxy-a\"";
        /// Where the other instances reach this one, to pass cancel requests on: `"host:port"`.
        advertise: Peer, unset "the first TCP address of `listen`; if that is any, the address from which etcd is reached", example "\"10.0.0.21:6432\"";
        /// An instance that cannot renew its lease for so long counts as gone. It stops writing a little earlier, and a
        /// failover waits so long for one that does not answer.
        lease: Positive, default "\"5s\"";
        /// As whom to log in to etcd.
        user: String, unset "without a login", example "\"pgpilot\"";
        /// Its password. At most one of this, `password_env` and `password_file` may be written.
        password: Secret, unset "none here", example "\"...\"";
        /// The environment variable that holds the password.
        password_env: String, unset "none", example "\"PGPILOT_ETCD_PASSWORD\"";
        /// The file that holds the password, on one line.
        password_file: PathBuf, unset "none", example "\"etcd.password\"";
        /// Who signs the certificates of etcd, PEM; used for `https`.
        ca: PathBuf, unset "the authorities of the system", example "\"etcd-ca.crt\"";
        /// The certificate with which this instance shows who it is, PEM.
        certificate: PathBuf, unset "none", example "\"etcd-client.crt\"";
        /// The certificate's private key, PEM.
        key: PathBuf, unset "none", example "\"etcd-client.key\"";
    }
}
