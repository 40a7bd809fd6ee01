-- Who moves a device's credential through the API moves the device: after users said yes, the gateway writes it here, too.
GRANT UPDATE (site_id, previous_site_id, moved_at) ON devices TO brigade_gateway;
