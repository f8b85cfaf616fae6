"""Configuration of the demo's programs: what a user would write, with the addresses left out."""

ROUTE_SERVER = """
[route-server]
router-id = "{rs}"
as = 64512
startup-hold = "0s"
rtc-settle = "1s"

[xmpp]
domain = "rs.example.net"
listen = ["{rs}:5222"]
certificate = "rs.pem"
private-key = "rs.key"
client-ca = "ca.pem"

[bgp]
listen = ["{rs}:179"]

[[bgp.neighbors]]
address = "{pe}"
peer-as = 64512
passive = true
afi-safis = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "route-target-constrain"]

[api]
listen = ["127.0.0.1:8080"]
"""
VPN = """
[[vpns]]
name = "{name}"
import-route-target = ["{target}"]
export-route-target = ["{target}"]
members = ["*.example.net"]
prefixes = ["10.0.0.0/8"]
"""
FORWARDER = """
[forwarder]
jid = "{host}.example.net"
address = "{address}"
encapsulations = {encapsulations}
state = "{directory}/{host}"
api = "{directory}/{host}.sock"

[[route-servers]]
address = "{rs}:5222"
domain = "rs.example.net"

[tls]
certificate = "{host}.example.net.pem"
private-key = "{host}.example.net.key"
ca = "ca.pem"

[dataplane]
backend = "linux"
peers = ["192.0.2.0/24"]
"""
GOBGP = """
[global.config]
  as = 64512
  router-id = "{pe}"
  port = -1

[[neighbors]]
  [neighbors.config]
    neighbor-address = "{rs}"
    peer-as = 64512
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "l3vpn-ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "rtc"
"""
