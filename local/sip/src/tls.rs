//! SIP over TLS: one connection from an endpoint to its PBX.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use rsipstack::{
    Error as StackError,
    platform::tls::{
        TlsClientConfig, TlsConnector as StackConnector, TlsStream as StackStream,
        clear_client_connector, set_client_connector,
    },
    sip::Transport,
    transport::{SipAddr, TransportLayer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpSocket, TcpStream},
    sync::Mutex,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Error, error::failed};

/// Serializes connects, because the SIP stack has one global TLS connector and passes it only the address.
static CONNECT_LOCK: Mutex<()> = Mutex::const_new(());

/// Connects from a local address (port 0 takes any free port) and trusts one certificate authority. The SIP stack sends
/// all requests for the PBX over this connection.
pub(crate) async fn connect(
    transport: &TransportLayer,
    from: SocketAddr,
    pbx: SocketAddr,
    ca_pem: &str,
) -> Result<SocketAddr, Error> {
    let connector = Arc::new(Connector {
        from,
        config: client_config(ca_pem)?,
    });
    let target = SipAddr::new(Transport::Tls, pbx.into());
    let _lock = CONNECT_LOCK.lock().await;
    set_client_connector(connector);
    let connected = transport.lookup(&target, None).await;
    clear_client_connector();
    let (connection, _) = connected.map_err(failed("connecting over TLS"))?;
    let local = connection.get_addr().get_socketaddr();
    local.map_err(failed("reading the TLS connection's address"))
}

fn client_config(ca_pem: &str) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes());
    let ca = ca.map_err(|_| Error::Certificate)?;
    roots.add(ca).map_err(|_| Error::Certificate)?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    Ok(Arc::new(config.with_no_client_auth()))
}

struct Connector {
    from: SocketAddr,
    config: Arc<ClientConfig>,
}

#[async_trait]
impl StackConnector for Connector {
    async fn connect(
        &self,
        _: &TlsClientConfig,
        pbx: SocketAddr,
    ) -> Result<Box<dyn StackStream>, StackError> {
        let socket = match pbx {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.bind(self.from)?;
        let stream = socket.connect(pbx).await?;
        let local = stream.local_addr()?;
        let name = ServerName::IpAddress(pbx.ip().into());
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let (reader, writer) = tokio::io::split(connector.connect(name, stream).await?);
        Ok(Box::new(Connection {
            local,
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
        }))
    }
}

struct Connection {
    local: SocketAddr,
    reader: Mutex<ReadHalf<TlsStream<TcpStream>>>,
    writer: Mutex<WriteHalf<TlsStream<TcpStream>>>,
}

#[async_trait]
impl StackStream for Connection {
    async fn recv(&self) -> Result<Vec<u8>, StackError> {
        let mut chunk = vec![0; 4096];
        let size = self.reader.lock().await.read(&mut chunk).await?;
        chunk.truncate(size);
        Ok(chunk)
    }

    async fn send_all(&self, data: Vec<u8>) -> Result<(), StackError> {
        let mut writer = self.writer.lock().await;
        writer.write_all(&data).await?;
        Ok(writer.flush().await?)
    }

    async fn shutdown(&self) -> Result<(), StackError> {
        Ok(self.writer.lock().await.shutdown().await?)
    }

    fn local_addr(&self) -> Result<SocketAddr, StackError> {
        Ok(self.local)
    }
}
