-- People name their sites and devices through the API: after users said yes, the gateway writes it here, too.
GRANT INSERT (name, display_name, time_zone), UPDATE (display_name, time_zone) ON sites TO brigade_gateway;
GRANT INSERT (name, display_name, site_id), UPDATE (display_name) ON devices TO brigade_gateway;
