import sys
import urllib.error
import urllib.request

try:
    print(urllib.request.urlopen("http://gateway-service:8000/health", timeout=10).read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"the gateway says {error.code}: {error.read().decode()}")
except OSError as error:
    sys.exit(f"the gateway does not answer: {error}; kubectl logs deployment/gateway-deployment tells more")
