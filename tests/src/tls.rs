//! A proxy that ends TLS, as an operator puts in front of a node.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// Listens with TLS and passes on what is inside. Its certificate is for `localhost`, from an authority of its own.
#[derive(Debug)]
pub struct TlsFront {
    pub address: SocketAddr,
    folder: TempDir,
}

impl TlsFront {
    /// Starts one in front of `to`. It ends with the tests.
    pub fn start(to: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = certified(&folder.path().join("authority.pem"));
        let (sender, address) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let acceptor = TlsAcceptor::from(Arc::new(config));
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(pass_on(acceptor.clone(), stream, to));
                }
            });
        });
        Self { address: address.recv().unwrap(), folder }
    }

    /// The address as a client writes it.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate of its authority, for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

/// What a server with a new certificate needs. The authority's goes to the file `authority`.
fn certified(authority: &Path) -> ServerConfig {
    let authority_key = KeyPair::generate().unwrap();
    let mut issuer = CertificateParams::new(Vec::new()).unwrap();
    // No other authority has this name.
    issuer.distinguished_name.push(DnType::CommonName, authority.display().to_string());
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(authority, issuer.self_signed(&authority_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = server.signed_by(&key, &Issuer::new(issuer, authority_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

async fn pass_on(acceptor: TlsAcceptor, stream: TcpStream, to: SocketAddr) {
    // Either side may go away at any time; the other then sees the end.
    let Ok(mut inside) = acceptor.accept(stream).await else { return };
    let Ok(mut node) = TcpStream::connect(to).await else { return };
    let _ = copy_bidirectional(&mut inside, &mut node).await;
}
